// SPDX-License-Identifier: GPL-2.0-only
/*
 * The first and only process of the benchmark's guest. Its clock counts guest
 * instructions, so what is printed is instructions for each I/O:
 *
 *   IO <device> <read|write> <instructions>
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define COUNT	20000
#define BLOCK	4096
#define SECTORS	(1UL << 21)	/* of each member: 1 GiB */

static void leave(void)
{
	fflush(stdout);
	reboot(RB_POWER_OFF);
}

static void die(const char *what)
{
	printf("FAIL %s: %s\n", what, strerror(errno));
	leave();
	_exit(1);
}

static void load_module(const char *name, const char *options)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "/modules/%s.ko", name);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return; /* built in */
	if (syscall(SYS_finit_module, fd, options, 0))
		die(name);
	close(fd);
}

static int dm(unsigned long request, const char *name, unsigned int flags, const char *type,
	      const char *text)
{
	static int control = -1;
	union {
		struct dm_ioctl ctl;
		char room[4096];
	} u;
	char *at = u.room + sizeof(u.ctl);

	if (control < 0)
		control = open("/dev/mapper/control", O_RDWR);
	memset(&u, 0, sizeof(u));
	u.ctl.version[0] = 4;
	u.ctl.data_size = sizeof(u);
	u.ctl.data_start = sizeof(u.ctl);
	u.ctl.flags = flags;
	snprintf(u.ctl.name, sizeof(u.ctl.name), "%s", name);
	if (type) {
		struct dm_target_spec *spec = (void *)at;

		u.ctl.target_count = 1;
		spec->length = SECTORS;
		snprintf(spec->target_type, sizeof(spec->target_type), "%s", type);
		strcpy((char *)(spec + 1), text);
	} else if (text) {
		strcpy(((struct dm_target_msg *)at)->message, text);
	}
	if (ioctl(control, request, &u))
		die(name);
	return u.ctl.dev & 0xff; /* the minor, while there are few */
}

static char *create(const char *name, const char *type, const char *text)
{
	char path[32];

	dm(DM_DEV_CREATE, name, 0, NULL, NULL);
	dm(DM_TABLE_LOAD, name, 0, type, text);
	snprintf(path, sizeof(path), "/dev/dm-%d", dm(DM_DEV_SUSPEND, name, 0, NULL, NULL));
	return strdup(path);
}

static void message(const char *name, const char *format, ...)
{
	char text[128];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	dm(DM_TARGET_MSG, name, 0, NULL, text);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

/* Instructions for one I/O at random places, every @stride sectors. */
static double cost(const char *path, int writes, unsigned int stride)
{
	int fd = open(path, (writes ? O_WRONLY : O_RDONLY) | O_DIRECT);
	unsigned long long seed = 1;
	void *buffer;
	double start;

	if (fd < 0 || posix_memalign(&buffer, BLOCK, BLOCK))
		die(path);
	memset(buffer, 0, BLOCK);
	start = now();
	for (int i = 0; i < COUNT; i++) {
		off_t at;

		seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
		at = (off_t)((seed >> 33) % (SECTORS / stride)) * stride * 512;
		if ((writes ? pwrite(fd, buffer, BLOCK, at) : pread(fd, buffer, BLOCK, at)) != BLOCK)
			die(path);
	}
	start = (now() - start) / COUNT;
	close(fd);
	free(buffer);
	return start;
}

static void measure(const char *what, const char *path, unsigned int stride)
{
	cost(path, 0, stride); /* warm */
	printf("IO %s read %.0f\n", what, cost(path, 0, stride));
	printf("IO %s write %.0f\n", what, cost(path, 1, stride));
}

int main(void)
{
	char *linear, *remap;

	mount("proc", "/proc", "proc", 0, NULL);
	mount("sys", "/sys", "sysfs", 0, NULL);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	load_module("configfs", "");
	load_module("null_blk", "nr_devices=2 gb=1 irqmode=0 completion_nsec=0");
	load_module("dax", "");
	load_module("dm-mod", "");
	load_module("dm_remap_v4_real", "");

	/* What the kernel still has to do after booting would be counted too. */
	sleep(5);
	measure("null_blk", "/dev/nullb0", 8);
	linear = create("linear", "linear", "/dev/nullb0 0");
	measure("dm-linear", linear, 8);
	remap = create("remap", "dm-remap-v4", "/dev/nullb0 /dev/nullb1");
	measure("dm-remap-v4,0", remap, 8);
	/* Every 64th block: what is read at all places is mostly not remapped. */
	for (unsigned int i = 0; i < SECTORS / 512; i++)
		message("remap", "add_remap %u %u 8", i * 512, i * 8);
	measure("dm-remap-v4,4096", remap, 8);
	measure("dm-remap-v4,4096,all-hits", remap, 512);
	printf("END\n");
	leave();
	return 0;
}
