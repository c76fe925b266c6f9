// SPDX-License-Identifier: GPL-2.0-only
/*
 * bulk <name> <instance> <token> <count> <per message>
 *
 * Loads remaps of one sector into a closed device, in messages that are longer
 * than a command line may be, and prints how long the kernel took for them.
 * Entry n is main 2n -> spare n.
 */
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define ENTRY_ROOM 64

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	unsigned long count, per, n = 0;
	struct dm_target_msg *msg;
	struct dm_ioctl *ctl;
	double took = 0;
	size_t size;
	int fd;

	if (argc != 6)
		return 2;
	count = strtoul(argv[4], NULL, 10);
	per = strtoul(argv[5], NULL, 10);
	size = sizeof(*ctl) + sizeof(*msg) + 256 + per * ENTRY_ROOM;
	ctl = malloc(size);
	msg = (void *)(ctl + 1);
	fd = open("/dev/mapper/control", O_RDWR);
	if (fd < 0 || !ctl) {
		perror("/dev/mapper/control");
		return 1;
	}
	while (n < count) {
		char *at = msg->message;
		double start;

		memset(ctl, 0, sizeof(*ctl) + sizeof(*msg));
		ctl->version[0] = 4;
		ctl->data_size = size;
		ctl->data_start = sizeof(*ctl);
		snprintf(ctl->name, sizeof(ctl->name), "%s", argv[1]);
		at += sprintf(at, "as %s %s load ", argv[2], argv[3]);
		for (unsigned long end = n + per; n < end && n < count; n++)
			at += sprintf(at, "%lu:%lu:1:0:0,", 2 * n, n);
		at[-1] = '\0';
		start = seconds();
		if (ioctl(fd, DM_TARGET_MSG, ctl)) {
			perror("load");
			return 1;
		}
		took += seconds() - start;
	}
	printf("%lu remaps in %.2f s\n", count, took);
	return 0;
}
