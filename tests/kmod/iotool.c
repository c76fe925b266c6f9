// SPDX-License-Identifier: GPL-2.0-only
/*
 * I/O as the module tests need it: O_DIRECT, exact offsets, exact errors.
 *
 *   iotool write <dev> <sector> <count> <seed>     pattern of (seed, sector)
 *   iotool dsync <dev> <sector> <count> <seed>     the same with O_DSYNC (FUA)
 *   iotool nowait <dev> <sector> <count> <seed>    the same with REQ_NOWAIT
 *   iotool check <dev> <sector> <count> <seed> [<as>]
 *           the same pattern must be there; <as>: as if the first sector was this
 *   iotool zero <dev> <sector> <count>             all of it must read as zero
 *   iotool read <dev> <sector> <count>             prints the errno name or ok
 *   iotool flush <dev>                             fsync
 *   iotool discard <dev> <sector> <count>
 *   iotool mark <dev> <sector> <main> <keyhex> <block>   write a lost mark
 *   iotool torture <dev> <sectors> <rounds> <seed> random writes and reads
 *                                                  against a copy in memory
 *   iotool entropy <seed>          User Mode Linux has no random numbers, and who
 *                                  asks for some waits: these are its first
 *   iotool poweroff now                            ends the test kernel
 * Prints "ok" or the errno's name, and exits 0 only for ok.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <sys/uio.h>
#include <unistd.h>

#include "lost.h"

/* linux/fs.h and linux/random.h would bring the kernel's types beside the shim's. */
#ifndef RNDADDENTROPY
#define RNDADDENTROPY _IOW('R', 0x03, int[2])
#endif
#ifndef BLKDISCARD
#define BLKDISCARD _IO(0x12, 119)
#endif

#define ALL_ZERO UINT64_MAX

static int fail(void)
{
	puts(errno == EIO ? "EIO" : errno == ENODATA ? "ENODATA" :
	     errno == EREMOTEIO ? "EREMOTEIO" : strerror(errno));
	return 1;
}

static void fill(uint8_t *b, uint64_t sector, uint64_t count, uint64_t seed)
{
	for (uint64_t s = 0; s < count; s++) {
		uint64_t x = (sector + s) * 0x9e3779b97f4a7c15ULL + seed * 0xbf58476d1ce4e5b9ULL;

		for (int i = 0; i < 64; i++, x = x * 6364136223846793005ULL + 1442695040888963407ULL)
			memcpy(b + s * 512 + i * 8, &x, 8);
	}
}

static uint8_t *buffer(uint64_t count)
{
	void *p;

	if (posix_memalign(&p, 4096, count ? count * 512 : 512))
		exit(2);
	return p;
}

static int do_write(int fd, uint64_t sector, uint64_t count, uint64_t seed, int flags)
{
	uint8_t *b = buffer(count);
	struct iovec v = { b, count * 512 };
	ssize_t n;

	fill(b, sector, count, seed);
	n = pwritev2(fd, &v, 1, sector * 512, flags);
	free(b);
	if (n < 0)
		return fail();
	if ((uint64_t)n != count * 512)
		return puts("SHORT"), 1;
	return puts("ok"), 0;
}

static int do_read(int fd, uint64_t sector, uint64_t count, const uint64_t *seed, uint64_t as)
{
	uint8_t *b = buffer(count), *want = buffer(count);
	ssize_t n = pread(fd, b, count * 512, sector * 512);

	if (n < 0)
		return fail();
	if ((uint64_t)n != count * 512)
		return puts("SHORT"), 1;
	if (seed && *seed == ALL_ZERO) {
		memset(want, 0, count * 512);
		if (memcmp(b, want, count * 512))
			return puts("NOT ZERO"), 1;
	} else if (seed) {
		fill(want, as, count, *seed);
		for (uint64_t s = 0; s < count; s++)
			if (memcmp(b + s * 512, want + s * 512, 512))
				return printf("DIFFERS at %llu\n", (unsigned long long)(sector + s)), 1;
	}
	return puts("ok"), 0;
}

static int do_mark(int fd, uint64_t sector, uint64_t main, const char *hex, uint32_t block)
{
	uint8_t *b = buffer(block / 512);

	make_lost_mark(b, block, main, hex);
	if (pwrite(fd, b, block, sector * 512) != (ssize_t)block)
		return fail();
	return puts("ok"), 0;
}

static int do_torture(int fd, uint64_t sectors, uint64_t rounds, uint64_t seed)
{
	uint8_t *copy = buffer(sectors), *b = buffer(2048);
	uint64_t x = seed * 2 + 1;

	if (pread(fd, copy, sectors * 512, 0) != (ssize_t)(sectors * 512))
		return fail();
	while (rounds--) {
		uint64_t at, n;

		x = x * 6364136223846793005ULL + 1442695040888963407ULL;
		at = (x >> 33) % sectors;
		n = 1 + (x >> 20) % ((x >> 12) % 8 ? 64 : 2048);
		if (n > sectors - at)
			n = sectors - at;
		if (x >> 63) {
			fill(b, at, n, x);
			if (pwrite(fd, b, n * 512, at * 512) != (ssize_t)(n * 512))
				return fail();
			memcpy(copy + at * 512, b, n * 512);
		} else {
			if (pread(fd, b, n * 512, at * 512) != (ssize_t)(n * 512))
				return fail();
			if (memcmp(b, copy + at * 512, n * 512))
				return printf("DIFFERS in %llu+%llu\n", (unsigned long long)at, (unsigned long long)n), 1;
		}
	}
	return puts("ok"), 0;
}

/* struct rand_pool_info with its bytes; numbers that repeat serve a test as well. */
static int add_entropy(const char *seed)
{
	struct {
		int bits, size;
		uint8_t bytes[512];
	} pool = { .bits = 512, .size = sizeof(pool.bytes) };
	int fd = open("/dev/random", O_WRONLY);

	fill(pool.bytes, 0, 1, strtoull(seed, NULL, 0));
	if (fd < 0 || ioctl(fd, RNDADDENTROPY, &pool))
		return fail();
	return puts("ok"), 0;
}

static uint64_t num(char **argv, int argc, int i)
{
	return i < argc ? strtoull(argv[i], NULL, 0) : 0;
}

int main(int argc, char **argv)
{
	const char *op = argc > 2 ? argv[1] : "";
	int ro = !strcmp(op, "read") || !strcmp(op, "check"), fd;
	uint64_t a = num(argv, argc, 3), n = num(argv, argc, 4), s = num(argv, argc, 5);

	if (argc < 3)
		return 2;
	if (!strcmp(op, "poweroff"))
		return reboot(RB_POWER_OFF);
	if (!strcmp(op, "entropy"))
		return add_entropy(argv[2]);
	fd = open(argv[2], (ro ? O_RDONLY : O_RDWR) | O_DIRECT |
		  (strcmp(op, "dsync") ? 0 : O_DSYNC));
	if (fd < 0)
		return fail();
	if (!strcmp(op, "write") || !strcmp(op, "dsync"))
		return do_write(fd, a, n, s, 0);
	if (!strcmp(op, "nowait"))
		return do_write(fd, a, n, s, RWF_NOWAIT);
	if (!strcmp(op, "check"))
		return do_read(fd, a, n, &s, argc > 6 ? num(argv, argc, 6) : a);
	if (!strcmp(op, "read"))
		return do_read(fd, a, n, NULL, 0);
	if (!strcmp(op, "zero"))
		return do_read(fd, a, n, &(uint64_t){ ALL_ZERO }, a);
	if (!strcmp(op, "flush"))
		return fsync(fd) ? fail() : (puts("ok"), 0);
	if (!strcmp(op, "discard")) {
		uint64_t range[2] = { a * 512, n * 512 };

		return ioctl(fd, BLKDISCARD, range) ? fail() : (puts("ok"), 0);
	}
	if (!strcmp(op, "mark") && argc > 6)
		return do_mark(fd, a, n, argv[5], num(argv, argc, 6));
	if (!strcmp(op, "torture"))
		return do_torture(fd, a, n, s);
	return 2;
}
