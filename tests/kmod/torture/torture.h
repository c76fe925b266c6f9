/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Torture of dm-remap-v4 on a kernel with two processors, as its process 1.
 * See main.c for the course of a run. All sectors are of 512 bytes.
 */
#ifndef TORTURE_H
#define TORTURE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* ---- what was done: each of these has to happen at least once ---- */

#define ACTIONS(X)							\
	X(read) X(write) X(write_fua) X(write_nowait) X(read_nowait)	\
	X(discard) X(zeroes) X(flush) X(readahead) X(over_1_mib)	\
	X(burst)							\
	X(read_of_lost) X(error_excused)				\
	X(fence) X(seal) X(unfence) X(fence_expired) X(fence_failed)	\
	X(fence_churned)						\
	X(add) X(replace) X(remove) X(clear) X(lose)			\
	X(bad_block) X(held) X(healed) X(released) X(expired) X(retried)\
	X(lease_ended) X(own) X(stale_token) X(refused)			\
	X(status) X(dump) X(errors) X(text)				\
	X(suspend) X(suspend_noflush) X(reload) X(orphan_refused)	\
	X(outage_main) X(outage_spare)					\
	X(closed_opened) X(closed_expired) X(removed_held)		\
	X(removed_later) X(vanished) X(unload_refused) X(slept)

#define X(name) DID_##name,
enum action { ACTIONS(X) NR_ACTIONS };
#undef X
/* The last one comes after the run. */
#define NR_IN_RUN DID_slept

void did(enum action a);

/* Something is wrong: say it, and bring the run to its end. */
__attribute__((format(printf, 1, 2))) void wrong(const char *fmt, ...);
/* The test itself cannot go on. */
__attribute__((format(printf, 1, 2), noreturn)) void die(const char *fmt, ...);

bool over(void);		/* time is up and all was done, or something was wrong */
uint64_t now_ms(void);
void sleep_ms(unsigned int ms);

/* A generator for each thread, from the seed of the run and the thread's number. */
struct rnd { uint64_t x; };
struct rnd rnd_for(unsigned int thread);
uint64_t rnd(struct rnd *r, uint64_t below);

/* ---- device-mapper (dm.c): 0 or -errno ---- */

struct line {
	uint64_t start, len;
	const char *type;
	const char *args;
};

int dm_create(const char *name, const struct line *lines, int n);
int dm_load(const char *name, const struct line *lines, int n);
int dm_clear(const char *name);	/* a table that was loaded and is not live */
int dm_resume(const char *name);
int dm_suspend(const char *name, bool noflush);
int dm_remove(const char *name, bool deferred);
int dm_message(const char *name, uint64_t sector, char *reply, const char *text);
/* The status or the table line of the last target. */
int dm_status(const char *name, bool table, char *text);
int dm_open(const char *name, int flags);
/* The table is replaced at once, without waiting for I/O that waits. */
void dm_swap(const char *name, const struct line *lines, int n);

#define DM_REPLY 65536

/* ---- a device under test and what must be on it (model.c) ---- */

#define VERSIONS 6
#define CHUNK 64
#define BLOCK 8
#define LOST UINT32_MAX
#define SPARES 2
#define KEY "000102030405060708090a0b0c0d0e0f"

struct disk {
	const char *name;
	bool managed;
	uint64_t base;		/* where the target starts */
	uint64_t len;
	uint8_t *main;		/* the media, as they are */
	uint8_t *spare[SPARES];
	uint64_t spare_len[SPARES];
	int fd;

	struct content {
		uint32_t v[VERSIONS];	/* what it may be; [0] alone if certain */
		uint8_t n;		/* 0: anything */
	} *sector;
	/* Where it must be: 0 main, else (index + 1) << 32 | spare sector. */
	uint64_t *place;
	atomic_uint version;
	pthread_mutex_t *lock;	/* of a chunk: its content is looked at or changed */

	/* Errors are to be expected: of a block, or of all of it. */
	atomic_uint *active, *gen;
	atomic_uint all_active, all_gen;

	char instance[17];
	pthread_mutex_t token_lock;
	char token[17];
};

void disk_init(struct disk *d);
void fill(uint8_t *b, uint64_t sector, uint64_t n, uint32_t version);
void poison(uint8_t *medium, uint64_t sector, uint64_t n);
bool is_poison(const uint8_t *medium, uint64_t sector);
uint8_t *medium_of(const struct disk *d, uint64_t place, uint64_t sector, uint64_t *at);

/* The content of a sector moves; the table of the device has to follow. */
void move_to(struct disk *d, uint64_t sector, uint64_t place);

void lock_range(struct disk *d, uint64_t start, uint64_t n);
void unlock_range(struct disk *d, uint64_t start, uint64_t n);

/* With the range locked. */
bool may_be_lost(const struct disk *d, uint64_t start, uint64_t n);
void wrote(struct disk *d, uint64_t start, uint64_t n, uint32_t version, bool surely);
void must_be(struct disk *d, const uint8_t *b, uint64_t start, uint64_t n);
bool at_their_places(const struct disk *d, uint64_t start, uint64_t n);
/* All media: every sector is where it must be, and nothing else was touched. */
void check_media(struct disk *d);

struct excuse { uint64_t gen; bool active; };
void excuse_begin(struct disk *d, uint64_t start, uint64_t n);
void excuse_end(struct disk *d, uint64_t start, uint64_t n);
void excuse_all_begin(struct disk *d);
void excuse_all_end(struct disk *d);
struct excuse excuse_look(struct disk *d, uint64_t start, uint64_t n);
bool excused(struct disk *d, uint64_t start, uint64_t n, struct excuse before);

/* ---- messages to a device under test (owner.c) ---- */

/* As the owner, on a managed device. */
__attribute__((format(printf, 3, 4)))
int tell(struct disk *d, char *reply, const char *fmt, ...);
/* As anybody. */
__attribute__((format(printf, 3, 4)))
int ask(struct disk *d, char *reply, const char *fmt, ...);
void take_over(struct disk *d);
void show_device(struct disk *d);
void must(int r, const char *what);

/* ---- threads: each takes its struct, or a disk ---- */

struct io_thread { struct disk *d; unsigned int nr; };
void *io_run(void *io_thread);

/* A part of main and a part of a spare that one thread moves sectors between. */
struct mover {
	struct disk *d;
	unsigned int nr, index;
	uint64_t start, end, spare_start, spare_end;
};
void *mover_run(void *mover);

/* Fences over the last block of a disk that come and go as fast as can be. */
void *churner_run(void *disk);

/* Blocks of main that fail, and what its owner does about it. */
struct surgeon {
	struct disk *d;
	const char *dust;	/* the dust device below, which starts at sector 0 */
	unsigned int blocks;
	uint64_t spare_start;
};
void *surgeon_run(void *surgeon);

void *keeper_run(void *disk);
void *asker_run(void *disk);
void *refused_run(void *disk);
void *suspender_run(void *disk);

struct breaker {
	struct disk *d;
	const char *main, *spare;	/* device-mapper devices below */
	const struct line *main_table, *spare_table;
	int main_lines, spare_lines;
};
void *breaker_run(void *breaker);

/* Devices that come and go (cycles.c). */
void *cycles_run(void *unused);
void sleep_with_held(void);

#endif
