// SPDX-License-Identifier: GPL-2.0-only
/*
 * Random tables and random I/O on a plain device named r, against a model of
 * every sector. The members are loop devices (or partitions of them) over files
 * that are looked at directly: after each write every sector lies where the table
 * says, and at the end nothing else was touched.
 *
 *   ranges <rounds> <seed> <start of the target> <length> <block in sectors>
 *          <main file> <its first sector> <spare file> <its first sector> <spare length>
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/falloc.h>
#include <linux/fs.h>

#include "torture/torture.h"

#define MAX_ENTRIES 60
#define MAX_SECTORS 3072

static struct disk d = { .name = "r" };
static struct rnd r;
static uint64_t block;
static struct entry { uint64_t main, spare, len; } entries[MAX_ENTRIES];
static int nr_entries;
static unsigned int changes, refusals, ios;

void wrong(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vprintf(fmt, args);
	putchar('\n');
	exit(1);
}

void die(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vprintf(fmt, args);
	putchar('\n');
	exit(1);
}

void must(int error, const char *what)
{
	if (error)
		die("%s: %s", what, strerror(-error));
}

uint64_t rnd(struct rnd *g, uint64_t below)
{
	g->x = g->x * 6364136223846793005ULL + 1442695040888963407ULL;
	return (g->x >> 33) % below;
}

/* ---- changes of the table ---- */

static bool overlap(uint64_t a, uint64_t an, uint64_t b, uint64_t bn)
{
	return a < b + bn && b < a + an;
}

static int expected(const struct entry *e, int *replaces)
{
	*replaces = -1;
	if (e->main + e->len > d.len || e->spare + e->len > d.spare_len[0])
		return -ERANGE;
	if ((e->main | e->spare | e->len) % block)
		return -EINVAL;
	for (int i = 0; i < nr_entries; i++) {
		if (entries[i].main == e->main)
			*replaces = i;
		else if (overlap(entries[i].main, entries[i].len, e->main, e->len) ||
			 overlap(entries[i].spare, entries[i].len, e->spare, e->len))
			return -EEXIST;
	}
	return 0;
}

static void to_main(const struct entry *e)
{
	for (uint64_t i = 0; i < e->len; i++)
		move_to(&d, e->main + i, 0);
}

static void send(int want, const char *fmt, ...)
{
	char text[200];
	va_list args;
	int got;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	got = dm_message(d.name, d.base, NULL, text);
	if (got != want)
		die("%s: %d, not %d", text, got, want);
	if (got)
		refusals++;
	else
		changes++;
}

static void add(void)
{
	uint64_t step = rnd(&r, 8) ? block : 1;
	struct entry e = {
		.main = rnd(&r, d.len / step + 2) * step,
		.spare = rnd(&r, d.spare_len[0] / step + 2) * step,
		.len = (1 + rnd(&r, rnd(&r, 4) ? 60 : 1000) / step) * step,
	};
	int replaces, want;

	if (nr_entries && !rnd(&r, 4))
		e.main = entries[rnd(&r, nr_entries)].main;
	want = expected(&e, &replaces);
	if (!want && replaces < 0 && nr_entries == MAX_ENTRIES)
		return;
	send(want, "add_remap %llu %llu %llu", (unsigned long long)e.main,
	     (unsigned long long)e.spare, (unsigned long long)e.len);
	if (want)
		return;
	if (replaces >= 0)
		to_main(&entries[replaces]);
	else
		replaces = nr_entries++;
	for (uint64_t i = 0; i < e.len; i++)
		move_to(&d, e.main + i, 1ULL << 32 | (e.spare + i));
	entries[replaces] = e;
}

static void remove_one(void)
{
	uint64_t main = rnd(&r, d.len);
	int i = nr_entries;

	if (nr_entries && rnd(&r, 4)) {
		i = rnd(&r, nr_entries);
		main = entries[i].main;
	}
	for (i = 0; i < nr_entries && entries[i].main != main; i++)
		;
	send(i < nr_entries ? 0 : -ENOENT, "remove_remap %llu", (unsigned long long)main);
	if (i == nr_entries)
		return;
	to_main(&entries[i]);
	entries[i] = entries[--nr_entries];
}

static void clear(void)
{
	send(0, "clear_all");
	while (nr_entries)
		to_main(&entries[--nr_entries]);
}

/* ---- I/O ---- */

/* Often around the ends of an entry. */
static void some_range(uint64_t *at, uint64_t *n)
{
	*n = 1 + rnd(&r, rnd(&r, 8) ? 100 : MAX_SECTORS);
	*at = rnd(&r, d.len);
	if (nr_entries && rnd(&r, 2)) {
		const struct entry *e = &entries[rnd(&r, nr_entries)];

		*at = e->main + (rnd(&r, 2) ? e->len : 0);
		*at -= rnd(&r, 2 * *n) < *at ? rnd(&r, *n) % (*at + 1) : 0;
	}
	*at -= *at % block;
	*n += block - 1;
	*n -= *n % block;
	if (*at >= d.len)
		*at = d.len - block;
	if (*n > d.len - *at)
		*n = d.len - *at;
}

static void io(uint8_t *b)
{
	uint64_t at, n, range[2];
	uint32_t version = atomic_fetch_add(&d.version, 1) + 1;
	int what = rnd(&r, 20), error = 0;

	some_range(&at, &n);
	range[0] = (d.base + at) * 512;
	range[1] = n * 512;
	if (what < 9) {
		if (pread(d.fd, b, range[1], range[0]) != (ssize_t)range[1])
			die("read of %llu+%llu: %s", (unsigned long long)at, (unsigned long long)n, strerror(errno));
		must_be(&d, b, at, n);
	} else if (what < 18) {
		fill(b, at, n, version);
		error = pwrite(d.fd, b, range[1], range[0]) != (ssize_t)range[1];
		wrote(&d, at, n, version, true);
	} else {
		error = what == 18 ? ioctl(d.fd, BLKDISCARD, range) :
			fallocate(d.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, range[0], range[1]);
		wrote(&d, at, n, 0, true);
	}
	if (error)
		die("I/O %d of %llu+%llu: %s", what, (unsigned long long)at, (unsigned long long)n, strerror(errno));
	at_their_places(&d, at, n);
	ios++;
}

/* ---- the media ---- */

static uint8_t *map(const char *path, uint64_t *size)
{
	int fd = open(path, O_RDWR);
	struct stat st;
	void *p;

	if (fd < 0 || fstat(fd, &st))
		die("%s: %s", path, strerror(errno));
	*size = st.st_size;
	p = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		die("%s: %s", path, strerror(errno));
	close(fd);
	return p;
}

/* What is not of the member is zero, as it was made. */
static void untouched(const char *path, const uint8_t *file, uint64_t size, uint64_t start, uint64_t n)
{
	for (uint64_t i = 0; i < size; i++)
		if (file[i] && (i < start * 512 || i >= (start + n) * 512))
			die("%s: byte %llu is outside of the member", path, (unsigned long long)i);
}

static uint64_t num(const char *s)
{
	return strtoull(s, NULL, 10);
}

int main(int argc, char **argv)
{
	uint8_t *b = aligned_alloc(4096, (MAX_SECTORS + 8) * 512), *main_file, *spare_file;
	uint64_t main_size, spare_size;

	if (argc != 11)
		return 2;
	r.x = num(argv[2]);
	d.base = num(argv[3]);
	d.len = num(argv[4]);
	block = num(argv[5]);
	main_file = map(argv[6], &main_size);
	d.main = main_file + num(argv[7]) * 512;
	spare_file = map(argv[8], &spare_size);
	d.spare[0] = spare_file + num(argv[9]) * 512;
	d.spare_len[0] = num(argv[10]);
	disk_init(&d);
	d.fd = open("/dev/mapper/r", O_RDWR | O_DIRECT);
	if (d.fd < 0)
		die("/dev/mapper/r: %s", strerror(errno));
	for (uint64_t i = num(argv[1]); i; i--) {
		uint64_t what = rnd(&r, 200);

		if (what == 0)
			clear();
		else if (what < 30)
			add();
		else if (what < 45)
			remove_one();
		else
			io(b + rnd(&r, 8) * 512);
	}
	check_media(&d);
	untouched(argv[6], main_file, main_size, num(argv[7]), d.len);
	untouched(argv[8], spare_file, spare_size, num(argv[9]), d.spare_len[0]);
	if (!changes || !refusals || !ios)
		die("%u changes, %u refusals, %u I/Os", changes, refusals, ios);
	printf("## seed %s: %u changes, %u refusals, %u I/Os\n", argv[2], changes, refusals, ios);
	return 0;
}
