// SPDX-License-Identifier: GPL-2.0-only
/*
 * Process 1 of the test kernel. For RG_SECONDS (up to four times as long while
 * something has not been done yet) two devices, one managed and one plain, are under random I/O while everything is done to them that can be done,
 * and a third one comes and goes. Then every sector of all media is compared with
 * the model, the module is unloaded, and the kernel looks for lost memory.
 *
 * Prints "ok ..." and "FAIL ..." lines; smp.sh counts them.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <linux/loop.h>

#include "torture.h"

#define MAIN_LEN 32768
#define SPARE_LEN 8192
#define DUST_LEN 1024
#define PLAIN_BASE 1000
#define PLAIN_LEN 16384
#define IO_THREADS 4
#define MAX_WRONG 20

static atomic_uint done[NR_ACTIONS], nr_wrong;
static uint64_t seed = 1, end_ms, late_ms;

void did(enum action a)
{
	atomic_fetch_add(&done[a], 1);
}

void wrong(const char *fmt, ...)
{
	char text[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (atomic_fetch_add(&nr_wrong, 1) < MAX_WRONG)
		printf("FAIL %s\n", text);
}

static void __attribute__((noreturn)) leave(void)
{
	puts("END");
	fflush(stdout);
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

void die(const char *fmt, ...)
{
	va_list args;

	printf("FAIL ");
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	putchar('\n');
	leave();
}

static bool all_done(void)
{
	for (int i = 0; i < NR_IN_RUN; i++)
		if (!atomic_load(&done[i]))
			return false;
	return true;
}

/* Where others are busy, the rarer actions need longer than what was asked for. */
bool over(void)
{
	uint64_t now = now_ms();

	return atomic_load(&nr_wrong) || (now >= end_ms && (now >= late_ms || all_done()));
}

uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

void sleep_ms(unsigned int ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000 };

	nanosleep(&t, NULL);
}

struct rnd rnd_for(unsigned int thread)
{
	struct rnd r = { seed * 1000 + thread };

	for (int i = 0; i < 4; i++)
		rnd(&r, 1);
	return r;
}

uint64_t rnd(struct rnd *r, uint64_t below)
{
	r->x = r->x * 6364136223846793005ULL + 1442695040888963407ULL;
	return (r->x >> 33) % below;
}

/* ---- the machine ---- */

static void put(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		die("%s: %s", path, strerror(errno));
	close(fd);
}

static void mount_all(void)
{
	static const struct { const char *type, *at; } m[] = {
		{ "proc", "/proc" }, { "sysfs", "/sys" }, { "devtmpfs", "/dev" },
		{ "tmpfs", "/media" }, { "configfs", "/sys/kernel/config" },
		{ "debugfs", "/sys/kernel/debug" },
	};

	for (size_t i = 0; i < sizeof(m) / sizeof(m[0]); i++) {
		mkdir(m[i].at, 0755);
		if (mount(m[i].type, m[i].at, m[i].type, 0, NULL) && errno != EBUSY)
			die("mount %s: %s", m[i].at, strerror(errno));
	}
}

static void load_module(void)
{
	int fd = open("/dm_remap_v4_real.ko", O_RDONLY);

	if (fd < 0 || syscall(SYS_finit_module, fd, "", 0))
		die("the module does not load: %s", strerror(errno));
	close(fd);
}

/* Loop device @n over memory that we see too: what is on the medium, without asking anybody. */
static uint8_t *medium(int n, uint64_t sectors)
{
	struct loop_config c = { 0 };
	char path[32];
	uint8_t *p;
	int fd, loop;

	snprintf(path, sizeof(path), "/media/%d", n);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	if (fd < 0 || ftruncate(fd, sectors * 512))
		die("%s: %s", path, strerror(errno));
	p = mmap(NULL, sectors * 512, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	snprintf(path, sizeof(path), "/dev/loop%d", n);
	loop = open(path, O_RDWR);
	c.fd = fd;
	c.block_size = 512;
	if (p == MAP_FAILED || loop < 0 || ioctl(loop, LOOP_CONFIGURE, &c))
		die("%s: %s", path, strerror(errno));
	close(loop);
	close(fd);
	return p;
}

/* ---- the devices ---- */

static const struct line dust_table[] = { { 0, DUST_LEN, "dust", "/dev/loop0 0 4096" } };
static const struct line main_table[] = {
	{ 0, DUST_LEN, "linear", "/dev/mapper/dust 0" },
	{ DUST_LEN, MAIN_LEN - DUST_LEN, "linear", "/dev/loop0 1024" },
};
static const struct line spare_table[] = { { 0, SPARE_LEN, "linear", "/dev/loop1 0" } };

static struct disk managed = { .name = "managed", .managed = true, .len = MAIN_LEN };
static struct disk plain = { .name = "plain", .base = PLAIN_BASE, .len = PLAIN_LEN };

static void open_disk(struct disk *d)
{
	d->fd = dm_open(d->name, O_RDWR | O_DIRECT);
	if (d->fd < 0)
		die("open of %s: %s", d->name, strerror(-d->fd));
}

static void make_managed(void)
{
	static char text[DM_REPLY], state[16];
	const struct line t[] = { { 0, MAIN_LEN, "dm-remap-v4",
		"/dev/mapper/main /dev/mapper/spare 8 managed hold 1500 reserve 8 16 spare /dev/loop2" } };

	managed.main = medium(0, MAIN_LEN);
	managed.spare[0] = medium(1, SPARE_LEN);
	managed.spare[1] = medium(2, SPARE_LEN);
	managed.spare_len[0] = managed.spare_len[1] = SPARE_LEN;
	disk_init(&managed);
	must(dm_create("dust", dust_table, 1), "create of dust");
	must(dm_message("dust", 0, NULL, "quiet"), "quiet");
	must(dm_message("dust", 0, NULL, "enable"), "enable");
	must(dm_create("main", main_table, 2), "create of main");
	must(dm_create("spare", spare_table, 1), "create of spare");
	must(dm_create("managed", t, 1), "create of the managed device");
	must(dm_status("managed", false, text), "status");
	if (sscanf(text, "%*u %*u %15s %*u %16s", state, managed.instance) != 2)
		die("the status is '%s'", text);
	take_over(&managed);
	must(tell(&managed, NULL, "lease 5000"), "lease");
	must(tell(&managed, NULL, "secret " KEY), "secret");
	open_disk(&managed);
}

/* Behind another target, so that its sectors do not start at 0. */
static void make_plain(void)
{
	const struct line t[] = {
		{ 0, PLAIN_BASE, "linear", "/dev/loop7 0" },
		{ PLAIN_BASE, PLAIN_LEN, "dm-remap-v4", "/dev/loop3 /dev/loop4" },
	};

	medium(7, PLAIN_BASE);
	plain.main = medium(3, PLAIN_LEN);
	plain.spare[0] = medium(4, SPARE_LEN);
	plain.spare_len[0] = SPARE_LEN;
	disk_init(&plain);
	must(dm_create("plain", t, 2), "create of the plain device");
	open_disk(&plain);
}

/* ---- the run ---- */

/* Longer than any bound in use, once the time is up. */
#define PATIENCE_MS 60000

static void show_stacks(void)
{
	char path[300], text[4096];
	struct dirent *e;
	DIR *tasks = opendir("/proc/self/task");

	while (tasks && (e = readdir(tasks))) {
		ssize_t n = 0;
		int fd;

		snprintf(path, sizeof(path), "/proc/self/task/%s/stack", e->d_name);
		fd = open(path, O_RDONLY);
		if (fd >= 0)
			n = read(fd, text, sizeof(text) - 1);
		if (n > 0)
			printf("## task %s\n%.*s", e->d_name, (int)n, text);
		close(fd);
	}
}

static void join(pthread_t t)
{
	struct timespec until = { 0 };
	uint64_t ms = (now_ms() > late_ms ? now_ms() : late_ms) + PATIENCE_MS;

	until.tv_sec = ms / 1000;
	if (pthread_clockjoin_np(t, NULL, CLOCK_MONOTONIC, &until)) {
		show_stacks();
		die("a thread hangs");
	}
}

static void run(void)
{
	struct io_thread io[IO_THREADS + 2];
	struct mover m[] = {
		{ &managed, 100, 0, DUST_LEN, 16384, 2048, SPARE_LEN - 16 },
		{ &managed, 101, 1, 16384, MAIN_LEN - BLOCK, BLOCK, SPARE_LEN - 16 },
		{ &plain, 102, 0, 0, PLAIN_LEN - 1, 0, SPARE_LEN },
	};
	struct surgeon s = { &managed, "dust", DUST_LEN / BLOCK, 16 };
	struct breaker b = { &managed, "main", "spare", main_table, spare_table, 2, 1 };
	struct disk *both[] = { &managed, &plain };
	pthread_t t[32];
	int n = 0;

	for (int i = 0; i < IO_THREADS + 2; i++) {
		io[i].d = i < IO_THREADS ? &managed : &plain;
		io[i].nr = i;
		pthread_create(&t[n++], NULL, io_run, &io[i]);
	}
	for (int i = 0; i < 3; i++)
		pthread_create(&t[n++], NULL, mover_run, &m[i]);
	pthread_create(&t[n++], NULL, surgeon_run, &s);
	pthread_create(&t[n++], NULL, churner_run, &managed);
	pthread_create(&t[n++], NULL, keeper_run, &managed);
	pthread_create(&t[n++], NULL, breaker_run, &b);
	for (int i = 0; i < 2; i++) {
		pthread_create(&t[n++], NULL, asker_run, both[i]);
		pthread_create(&t[n++], NULL, refused_run, both[i]);
		pthread_create(&t[n++], NULL, suspender_run, both[i]);
	}
	pthread_create(&t[n++], NULL, cycles_run, NULL);
	while (n)
		join(t[--n]);
}

static bool read_is(struct disk *d, uint64_t sector, uint64_t n)
{
	static uint8_t b[CHUNK * 512] __attribute__((aligned(4096)));

	if (pread(d->fd, b, n * 512, (d->base + sector) * 512) != (ssize_t)(n * 512))
		return false;
	must_be(d, b, sector, n);
	return true;
}

/* Every sector through the device, then every medium. */
static void check_all(struct disk *d)
{
	uint64_t lost = 0;

	for (uint64_t chunk = 0; chunk < d->len; chunk += CHUNK) {
		if (read_is(d, chunk, CHUNK))
			continue;
		for (uint64_t s = chunk; s < chunk + CHUNK; s++) {
			if (read_is(d, s, 1))
				continue;
			lost++;
			if (errno != ENODATA || !may_be_lost(d, s, 1))
				wrong("%s: sector %llu: %s", d->name, (unsigned long long)s,
				      strerror(errno));
		}
	}
	check_media(d);
	printf("## %s: %llu sectors compared, %llu of them lost\n", d->name,
	       (unsigned long long)d->len, (unsigned long long)lost);
}

static void check_actions(void)
{
#define X(name) #name,
	static const char *const names[] = { ACTIONS(X) };
#undef X

	for (int i = 0; i < NR_ACTIONS; i++) {
		printf("## %-16s %u\n", names[i], done[i]);
		if (!done[i])
			printf("FAIL %s was never done\n", names[i]);
	}
}

static void remove_all(void)
{
	static const char *const names[] = { "managed", "plain", "main", "spare", "dust" };

	close(managed.fd);
	close(plain.fd);
	for (int i = 0; i < 5; i++)
		must(dm_remove(names[i], false), names[i]);
}

/* Memory that nothing points to; what is younger than 5 s is not looked at. */
static void check_leaks(const char *when)
{
	static char text[65536];
	ssize_t n;
	int fd;

	sleep_ms(5500);
	put("/sys/kernel/debug/kmemleak", "scan");
	put("/sys/kernel/debug/kmemleak", "scan");
	fd = open("/sys/kernel/debug/kmemleak", O_RDONLY);
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (fd < 0 || n < 0)
		die("kmemleak: %s", strerror(errno));
	text[n] = '\0';
	if (n)
		printf("%s\nFAIL memory is lost %s\n", text, when);
	else
		printf("ok no memory is lost %s\n", when);
}

static uint64_t setting(const char *name, uint64_t fallback)
{
	return getenv(name) ? strtoull(getenv(name), NULL, 10) : fallback;
}

static void verdict(const char *what)
{
	static unsigned int before;

	if (nr_wrong == before)
		printf("ok %s\n", what);
	before = nr_wrong;
}

int main(void)
{
	uint64_t seconds = setting("RG_SECONDS", 45);

	setvbuf(stdout, NULL, _IOLBF, 0);
	mount_all();
	seed = setting("RG_SEED", 1);
	printf("## seed %llu, %llu s\n", (unsigned long long)seed, (unsigned long long)seconds);
	load_module();
	make_managed();
	make_plain();
	medium(5, SPARE_LEN);
	medium(6, SPARE_LEN);
	verdict("devices are there");
	end_ms = now_ms() + seconds * 1000;
	late_ms = now_ms() + 4 * seconds * 1000;
	run();
	verdict("I/O, changes, failures, suspends and removals at the same time");
	check_all(&managed);
	check_all(&plain);
	verdict("every sector is where it must be, and nothing else was touched");
	sleep_with_held();
	verdict("the system can sleep with held I/O");
	check_actions();
	remove_all();
	check_leaks("after the devices were removed");
	if (syscall(SYS_delete_module, "dm_remap_v4_real", 0))
		wrong("the module does not unload: %s", strerror(errno));
	check_leaks("after the module was unloaded");
	verdict("the module unloads");
	leave();
}
