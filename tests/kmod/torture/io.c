// SPDX-License-Identifier: GPL-2.0-only
/* Random I/O of every kind, size and alignment; each result is checked against the model. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <linux/falloc.h>
#include <linux/fs.h>

#include "torture.h"

#define MAX_SECTORS 3072

struct job {
	struct disk *d;
	struct rnd r;
	uint8_t *buffer;	/* sector aligned only: any offset in a page */
	int cached;		/* the device without O_DIRECT, for read-ahead */
	uint64_t at, n;
	struct excuse before;
};

static uint64_t some_length(struct rnd *r)
{
	switch (rnd(r, 10)) {
	case 0:
		return 1 + rnd(r, MAX_SECTORS);
	case 1:
	case 2:
		return 1 + rnd(r, 512);
	default:
		return 1 + rnd(r, 64);
	}
}

static uint64_t where(const struct job *j)
{
	return (j->d->base + j->at) * 512;
}

/* An error that the model knows of no reason for. */
static void check_error(struct job *j, const char *what, int error)
{
	if (excused(j->d, j->at, j->n, j->before)) {
		did(DID_error_excused);
		return;
	}
	wrong("%s: %s of %llu+%llu: %s", j->d->name, what, (unsigned long long)j->at,
	      (unsigned long long)j->n, strerror(error));
	show_device(j->d);
}

static bool surely_lost(struct job *j)
{
	for (uint64_t s = j->at; s < j->at + j->n; s++)
		if (j->d->sector[s].n == 1 && j->d->sector[s].v[0] == LOST)
			return true;
	return false;
}

static void do_read(struct job *j, int flags)
{
	struct iovec v = { j->buffer, j->n * 512 };
	ssize_t got = preadv2(j->d->fd, &v, 1, where(j), flags);

	if (got == (ssize_t)v.iov_len) {
		if (surely_lost(j))
			wrong("%s: a read of a lost sector in %llu+%llu succeeded", j->d->name,
			      (unsigned long long)j->at, (unsigned long long)j->n);
		else
			must_be(j->d, j->buffer, j->at, j->n);
		did(flags ? DID_read_nowait : DID_read);
	} else if (got < 0 && errno == ENODATA && may_be_lost(j->d, j->at, j->n)) {
		did(DID_read_of_lost);
	} else if (got < 0 && errno == EAGAIN && flags) {
		did(DID_read_nowait);
	} else {
		check_error(j, "read", got < 0 ? errno : 0);
	}
}

static void do_write(struct job *j, int flags, enum action what)
{
	uint32_t version = atomic_fetch_add(&j->d->version, 1) + 1;
	struct iovec v = { j->buffer, j->n * 512 };
	ssize_t put;

	fill(j->buffer, j->at, j->n, version);
	put = pwritev2(j->d->fd, &v, 1, where(j), flags);
	wrote(j->d, j->at, j->n, version, put == (ssize_t)v.iov_len);
	if (put != (ssize_t)v.iov_len &&
	    !(put < 0 && errno == EAGAIN && flags & RWF_NOWAIT)) {
		check_error(j, "write", put < 0 ? errno : 0);
		return;
	}
	did(what);
	if (j->n > 2048)
		did(DID_over_1_mib);
}

static void do_discard(struct job *j)
{
	uint64_t range[2] = { where(j), j->n * 512 };
	int r = ioctl(j->d->fd, BLKDISCARD, range);

	/* The kernel hides that a member does not know it, as one that is out of order. */
	wrote(j->d, j->at, j->n, 0, !r && !excused(j->d, j->at, j->n, j->before));
	if (r)
		check_error(j, "discard", errno);
	else
		did(DID_discard);
}

static void do_zeroes(struct job *j)
{
	int r = fallocate(j->d->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			  where(j), j->n * 512);

	wrote(j->d, j->at, j->n, 0, !r);
	if (r)
		check_error(j, "zeroes", errno);
	else
		did(DID_zeroes);
}

static void do_flush(struct job *j)
{
	if (fsync(j->d->fd))
		check_error(j, "flush", errno);
	else
		did(DID_flush);
}

/* Nobody looks at what it reads: only that such I/O is there. */
static void do_readahead(struct job *j)
{
	posix_fadvise(j->cached, where(j), j->n * 512, POSIX_FADV_WILLNEED);
	posix_fadvise(j->cached, where(j), j->n * 512, POSIX_FADV_DONTNEED);
	did(DID_readahead);
}

/* Reads in quick succession, for lookups that meet changes; only that they do no harm. */
static void do_burst(struct job *j)
{
	for (int i = 0; i < 50; i++) {
		uint64_t at = j->d->base + rnd(&j->r, j->d->len);

		if (pread(j->d->fd, j->buffer, 512, at * 512) < 0 && errno != EIO && errno != ENODATA)
			check_error(j, "burst", errno);
	}
	did(DID_burst);
}

static void one(struct job *j)
{
	unsigned int what = rnd(&j->r, 100);

	/* Below the managed device there is dm-dust, which knows neither of these. */
	if (j->d->managed && ((what >= 81 && what < 89) || (what >= 92 && what < 95)))
		what -= 81;
	if (what < 40)
		do_read(j, 0);
	else if (what < 76)
		do_write(j, 0, DID_write);
	else if (what < 81)
		do_write(j, RWF_DSYNC, DID_write_fua);
	else if (what < 85)
		do_write(j, RWF_NOWAIT, DID_write_nowait);
	else if (what < 89)
		do_read(j, RWF_NOWAIT);
	else if (what < 92)
		do_discard(j);
	else if (what < 95)
		do_zeroes(j);
	else if (what < 97)
		do_flush(j);
	else if (what < 99)
		do_readahead(j);
	else
		do_burst(j);
}

void *io_run(void *arg)
{
	struct io_thread *t = arg;
	struct job j = { .d = t->d, .r = rnd_for(t->nr) };
	uint8_t *memory = aligned_alloc(4096, (MAX_SECTORS + 8) * 512);

	j.cached = dm_open(t->d->name, O_RDONLY);
	while (!over()) {
		j.n = some_length(&j.r);
		if (j.n > j.d->len)
			j.n = j.d->len;
		j.at = rnd(&j.r, j.d->len - j.n + 1);
		j.buffer = memory + rnd(&j.r, 8) * 512;
		lock_range(j.d, j.at, j.n);
		j.before = excuse_look(j.d, j.at, j.n);
		one(&j);
		unlock_range(j.d, j.at, j.n);
	}
	close(j.cached);
	free(memory);
	return NULL;
}
