// SPDX-License-Identifier: GPL-2.0-only
/*
 * Devices that come and go, over and over, each in a way that leaves I/O in the
 * target: closed, with held writes, with members that are gone.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "torture.h"

#define NAME "cycle"
#define LEN 4096
#define BAD_BLOCK 1024
/* How long anything here may take: the bounds in use, and that on a machine with other things to do. */
#define BOUND_MS 60000

/* One read or write on a thread of its own, since it may have to wait. */
struct waiter {
	pthread_t thread;
	uint64_t sector;
	int fd;
	bool write;
	int error;
};

static void *wait_run(void *arg)
{
	struct waiter *w = arg;
	void *b = aligned_alloc(4096, 4096);
	ssize_t n;

	memset(b, 7, 4096);
	n = w->write ? pwrite(w->fd, b, 4096, w->sector * 512) : pread(w->fd, b, 4096, w->sector * 512);
	w->error = n == 4096 ? 0 : errno;
	free(b);
	return NULL;
}

static void start(struct waiter *w, uint64_t sector, bool write)
{
	w->fd = dm_open(NAME, O_RDWR | O_DIRECT);
	if (w->fd < 0)
		die("open of " NAME ": %s", strerror(-w->fd));
	w->sector = sector;
	w->write = write;
	pthread_create(&w->thread, NULL, wait_run, w);
}

static int finish(struct waiter *w)
{
	uint64_t t0 = now_ms();

	pthread_join(w->thread, NULL);
	close(w->fd);
	if (now_ms() - t0 > BOUND_MS)
		wrong("I/O took %llu ms", (unsigned long long)(now_ms() - t0));
	return w->error;
}

static struct disk dut = { .name = NAME, .managed = true, .len = LEN,
			   .token_lock = PTHREAD_MUTEX_INITIALIZER };

static void status(char *state, unsigned int *held)
{
	static char text[DM_REPLY];

	must(dm_status(NAME, false, text), "status");
	if (sscanf(text, "%*u %*u %15s %*u %16s %*u %u", state, dut.instance, held) != 3)
		die("the status of " NAME " is '%s'", text);
}

static void create(const char *members, const char *options)
{
	unsigned int held;
	char args[256], state[16];
	struct line t = { 0, LEN, "dm-remap-v4", args };
	int r;

	snprintf(args, sizeof(args), "%s %s", members, options);
	r = dm_create(NAME, &t, 1);
	if (r)
		die("create of " NAME ": %s", strerror(-r));
	status(state, &held);
	*dut.token = '\0';
	take_over(&dut);
}

static void until_held(void)
{
	uint64_t t0 = now_ms();
	unsigned int held = 0;
	char state[16];

	while (!held && now_ms() - t0 < BOUND_MS) {
		sleep_ms(5);
		status(state, &held);
	}
	if (!held)
		wrong("a write to a bad block was not held");
}

/* Whoever was the last to have it open may take a moment more. */
static void gone(const char *name)
{
	int r;

	for (int i = 0; (r = dm_remove(name, false)) == -EBUSY && i < 1000; i++)
		sleep_ms(5);
	if (r && r != -ENXIO)
		wrong("remove of %s: %s", name, strerror(-r));
}

static const struct line bad_main[] = {
	{ 0, BAD_BLOCK, "linear", "/dev/loop5 0" },
	{ BAD_BLOCK, 8, "error", "" },
	{ BAD_BLOCK + 8, LEN - BAD_BLOCK - 8, "linear", "/dev/loop5 1032" },
};

static void create_with_bad_block(const char *options)
{
	must(dm_create("cycle-main", bad_main, 3), "create of a bad main");
	create("/dev/mapper/cycle-main /dev/loop6", options);
}

static void closed_then_open(void)
{
	struct waiter w;
	char reply[DM_REPLY];
	unsigned long long count, sum;

	create("/dev/loop5 /dev/loop6", "3 managed closed 20000");
	start(&w, 64, false);
	must(tell(&dut, NULL, "load 64:0:64:0:0,200:100:8:0:0"), "load");
	must(ask(&dut, reply, "dump 0"), "dump");
	if (sscanf(reply, "dump %llu %llx", &count, &sum) != 2 || count != 2)
		wrong("dump after load: %s", reply);
	must(tell(&dut, NULL, "ready %llu %016llx", count, sum), "ready");
	if (finish(&w))
		wrong("a read after ready failed: %s", strerror(w.error));
	gone(NAME);
	did(DID_closed_opened);
}

static void closed_too_long(void)
{
	struct waiter w;

	create("/dev/loop5 /dev/loop6", "3 managed closed 150");
	start(&w, 64, true);
	if (finish(&w) != EIO)
		wrong("a write to a device that was never ready: %d", w.error);
	gone(NAME);
	did(DID_closed_expired);
}

/* "dmsetup remove --force": an error table below whoever has it open. */
static void removed_by_force(void)
{
	const struct line error = { 0, LEN, "error", "" };
	uint64_t t0 = now_ms();
	struct waiter w;

	create_with_bad_block("3 managed hold 2000");
	must(tell(&dut, NULL, "lease 30000"), "lease");
	start(&w, BAD_BLOCK, true);
	until_held();
	if (dm_remove(NAME, false) != -EBUSY)
		wrong("removed while open");
	must(dm_load(NAME, &error, 1), "load of an error table");
	must(dm_suspend(NAME, false), "suspend");
	must(dm_resume(NAME), "resume");
	if (finish(&w) != EIO)
		wrong("a held write of a removed device: %d", w.error);
	if (now_ms() - t0 > BOUND_MS)
		wrong("removal took %llu ms", (unsigned long long)(now_ms() - t0));
	gone(NAME);
	gone("cycle-main");
	did(DID_removed_held);
}

static void removed_when_closed(void)
{
	struct waiter w;

	create_with_bad_block("3 managed hold 10000");
	must(tell(&dut, NULL, "lease 30000"), "lease");
	start(&w, BAD_BLOCK, true);
	until_held();
	must(dm_remove(NAME, true), "deferred remove");
	must(tell(&dut, NULL, "release 0 %u", LEN), "release");
	if (finish(&w) != EIO)
		wrong("a released write: %d", w.error);
	gone(NAME);
	gone("cycle-main");
	did(DID_removed_later);
}

/* ---- a member that vanishes ---- */

static void put(const char *folder, const char *file, const char *value)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", folder, file);
	fd = open(path, O_WRONLY);
	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		die("%s: %s", path, strerror(errno));
	close(fd);
}

static void null_disk(const char *folder, const char *index)
{
	if (mkdir(folder, 0700))
		die("%s: %s", folder, strerror(errno));
	put(folder, "index", index);
	put(folder, "size", "4");
	put(folder, "memory_backed", "1");
	put(folder, "power", "1");
}

static void member_vanishes(void)
{
	static const char *const folders[] = {
		"/sys/kernel/config/nullb/nullb1", "/sys/kernel/config/nullb/nullb2",
	};
	struct waiter w[4];
	bool failed = false;

	null_disk(folders[0], "1");
	null_disk(folders[1], "2");
	create("/dev/nullb1 /dev/nullb2", "3 managed hold 1000");
	must(tell(&dut, NULL, "lease 30000"), "lease");
	put(folders[0], "power", "0");
	for (int i = 0; i < 4; i++)
		start(&w[i], i * 64, i % 2);
	for (int i = 0; i < 4; i++)
		failed |= finish(&w[i]) != 0;
	if (!failed)
		wrong("I/O to a member that is gone succeeded");
	gone(NAME);
	put(folders[1], "power", "0");
	rmdir(folders[0]);
	rmdir(folders[1]);
	did(DID_vanished);
}

static void unload(void)
{
	if (!syscall(SYS_delete_module, "dm_remap_v4_real", O_NONBLOCK))
		wrong("the module was unloaded while in use");
	did(DID_unload_refused);
}

void *cycles_run(void *unused)
{
	(void)unused;
	while (!over()) {
		closed_then_open();
		closed_too_long();
		removed_by_force();
		removed_when_closed();
		member_vanishes();
		unload();
	}
	return NULL;
}

/*
 * The system goes to sleep while a write is held: the write gets its error, not
 * at its bound but at once, so that its task can be frozen. Only as far as the freezer:
 * nothing would wake this machine.
 */
void sleep_with_held(void)
{
	static char errors[DM_REPLY];
	struct waiter w;

	create_with_bad_block("3 managed hold 15000");
	must(tell(&dut, NULL, "lease 30000"), "lease");
	start(&w, BAD_BLOCK, true);
	until_held();
	put("/sys/power", "pm_test", "freezer");
	put("/sys/power", "state", "freeze");
	if (finish(&w) != EIO)
		wrong("a write that was held when the system went to sleep: %d", w.error);
	must(ask(&dut, errors, "errors 0"), "errors");
	if (!strstr(errors, " released write main 1024 ") || strstr(errors, " expired "))
		wrong("what was held when the system went to sleep: %s", errors);
	/* Awake again: writes are held as before. */
	start(&w, BAD_BLOCK, true);
	until_held();
	must(tell(&dut, NULL, "lease 0"), "lease");
	if (finish(&w) != EIO)
		wrong("a write whose lease ended: %d", w.error);
	gone(NAME);
	gone("cycle-main");
	did(DID_slept);
}
