/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The dm-remap-v4 target: what its files share.
 *
 * Two lifetimes meet here. A remap_target is one table's instance: its members
 * and options. A remap_device belongs to the mapped device and outlives table
 * reloads: the remaps, the fences, what is held, the ring, the owner.
 *
 * Locks, outermost first (device.c has one more around them, for its list, and
 * sysfs.c one around ring.lock only):
 *   ctl        (mutex)    one changing message at a time; every table change
 *   live_lock  (mutex)    live_ti, only for raising events
 *   lock       (spinlock) fences, waiting and held I/O, lease, deadlines
 *   ring.lock  (spinlock) the error ring, health; from end_io, in any context
 *   flush_lock (spinlock) flushes under way or failed; likewise
 * The map path takes none of them unless its I/O has to wait.
 */
#ifndef REMAP_H
#define REMAP_H

#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/device-mapper.h>
#include <linux/list.h>
#include <linux/mempool.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

#include "args.h"
#include "health.h"
#include "mark.h"
#include "table.h"

#define REMAP_TARGET_NAME	"dm-remap-v4"
#define REMAP_LOG		"dm-remap v4.0 real: "
#define REMAP_PROTOCOL		1

#define REMAP_MAX_FENCES	64
#define REMAP_MAX_FENCE_MS	60000
#define REMAP_MAX_WATCHES	64
#define REMAP_MAX_LOAD		(1 << 22)	/* entries of one message */
#define REMAP_MAX_WATCH_MS	600000
#define REMAP_MAX_LEASE_MS	60000
#define REMAP_MAX_CLOSED_MS	600000
#define REMAP_MAX_HOLD_MS	15000
#define REMAP_HOLD_MS		10000
#define REMAP_LATCH_MS		10000
#define REMAP_OWN_FLUSH_MS	30000
#define REMAP_FREEZE_MS		10000
#define REMAP_HELD_PIECES	1024
#define REMAP_HELD_BYTES	(16 << 20)
/* At once; of the workers of the slow path, of which there are twice as many. */
#define REMAP_NARROW_READS	16
#define REMAP_SLOW_ACTIVE	32
#define REMAP_BOUNCE_ORDER	4
#define REMAP_BOUNCE_BYTES	(PAGE_SIZE << REMAP_BOUNCE_ORDER)
#define REMAP_RING_SIZE		512
#define REMAP_TIME_ONE_IN	1024

extern bool remap_debug;
extern unsigned int remap_initial_buckets;
extern struct workqueue_struct *remap_ctl_wq;
extern struct workqueue_struct *remap_drain_wq;

/* ---- the error ring ---- */

enum remap_kind {
	KIND_FAILED,		/* passed up */
	KIND_HELD,
	KIND_HEALED,		/* a held piece succeeded after its re-drive */
	KIND_EXPIRED,
	KIND_RELEASED,
};

#define REMAP_NO_SECTOR U64_MAX

struct remap_record {
	u64 seq;
	u64 main;		/* REMAP_NO_SECTOR: concerns no range */
	u64 sector;		/* on the member */
	u64 ns;
	u32 len;
	u32 opf;		/* only the operation and the flags reported */
	u8 kind;
	u8 member;
	blk_status_t status;
};

struct remap_ring {
	spinlock_t lock;
	u64 next;
	struct remap_record *r;
};

/* ---- the mapped device ---- */

enum remap_state { STATE_ACTIVE, STATE_CLOSED, STATE_EXPIRED };
enum fence_state { FENCE_DRAINING, FENCE_DRAINED, FENCE_SEALED, FENCE_FAILED };

struct remap_fence {
	struct list_head list;
	struct rcu_head rcu;
	u64 start, end;
	u32 id;
	u32 ms;
	unsigned long until;
	enum fence_state state;
	bool this_round;	/* waits for the drain round under way */
};

struct remap_watch {
	struct list_head list;
	struct rcu_head rcu;
	u64 start, end;
	u32 id;
	unsigned long until;
	bool armed;
	bool this_round;	/* waits for the drain round under way */
	atomic64_t writes;
};

/* Written by the CPU it belongs to; only sums over all CPUs mean anything. */
struct remap_percpu {
	unsigned long inflight[2];
	u64 reads, writes, hits, misses;
	u64 timed, timed_ns;	/* lookups that were timed, and their sum */
};

struct remap_counts {
	u64 reads, writes, hits, misses, timed, timed_ns, errors;
};

struct remap_device {
	struct list_head list;
	struct mapped_device *md;
	struct list_head targets;	/* both under remap_devices_lock */
	bool managed;
	u64 instance;

	/* What map reads. */
	struct remap_table table;
	struct remap_percpu __percpu *pcpu;
	unsigned int epoch;
	bool gated;		/* some I/O may have to wait, fail or be counted */
	unsigned long dirty;	/* bit n: spare n was written since its last flush */

	spinlock_t flush_lock;
	unsigned int flushing[REMAP_MAX_SPARES];	/* flushes under way */
	bool flush_failed;
	bool flush_owed;	/* nobody was told yet: the bound has not begun */
	unsigned long flush_failed_until;
	u64 own_flushes;	/* the owner's, under way: a bit for each */
	struct list_head after_own;	/* flushes that succeeded meanwhile */

	struct mutex ctl;
	u64 total_remaps;	/* ctl: ever created */
	u64 resizes;		/* ctl: of the table's buckets */
	bool owned;		/* ctl */
	u64 token;		/* ctl */

	struct mutex live_lock;
	struct dm_target *live_ti;

	spinlock_t lock;
	enum remap_state state;
	unsigned long closed_until;
	struct list_head fences;	/* also read under RCU */
	unsigned int nr_fences;
	u32 last_fence;
	struct list_head watches;	/* also read under RCU */
	unsigned int nr_watches;
	u32 last_watch;
	struct list_head waiting;
	struct list_head held;
	unsigned int held_pieces;
	u64 held_bytes;
	atomic_t narrow_reads;
	u64 changes;		/* bumped by all that may make a held piece succeed */
	bool no_new_holds;
	bool lease;
	bool hold_reads;	/* the lease is for reads, too */
	unsigned long lease_until;
	bool has_key;
	u8 key[REMAP_KEY_SIZE];

	struct remap_ring ring;
	struct remap_health health;	/* ring.lock */
	atomic64_t errors;
	struct remap_counts base;	/* ctl: where the last stats left off */
	struct remap_folder *folder;

	struct workqueue_struct *slow_wq;
	struct bio_set bios;
	mempool_t pieces;
	mempool_t bounce;
	struct delayed_work bounds;
	struct work_struct drain;
	struct work_struct event;
};

/* ---- one table's instance ---- */

struct remap_target {
	struct list_head list;
	struct dm_target *ti;
	struct remap_device *rd;
	struct dm_dev *main;
	struct dm_dev *spare[REMAP_MAX_SPARES];
	struct remap_limits limits;
	u32 block_size;		/* logical, in bytes */
	bool managed;
	bool small_spare;
	bool dead;		/* being destroyed: what waits fails */
	unsigned int hold_ms;
	unsigned int closed_ms;
	char *options;		/* as `dmsetup table` prints them, or NULL */
};

/* ---- one bio ---- */

enum io_state {
	IO_DONE,		/* end_io has nothing to do */
	IO_DIRECT,		/* on a member, counted in an epoch */
	IO_FLUSH,
};

/*
 * Lives in the bio's per-target data. The part below @work is set up only for
 * I/O that leaves the fast path.
 */
struct remap_io {
	struct remap_target *rt;
	struct bvec_iter iter;	/* as accepted by map, bi_sector = main sector */
	enum io_state state;
	u8 epoch;
	u8 member;
	u64 sector;		/* on the member */

	struct work_struct work;
	struct list_head waiting;
	struct list_head todo;	/* decided pieces, under rd->lock */
	struct bvec_iter rest;	/* still to be driven for the first time */
	unsigned long deadline;	/* of narrowing and holding, once narrow */
	unsigned int pieces;	/* held or todo, under rd->lock */
	bool running;		/* the work is queued or runs, under rd->lock */
	bool narrow;		/* it failed: block by block */
	bool requeue;		/* to be handed back to device-mapper */
	blk_status_t first;	/* why it is narrow */
	blk_status_t status;
};

enum verdict { V_REDRIVE, V_EXPIRED, V_RELEASED, V_REQUEUE };

/* A part of what failed, at most one physical block, that waits for a cure. */
struct remap_piece {
	struct list_head list;
	struct remap_io *io;
	struct bvec_iter iter;
	enum verdict verdict;
	blk_status_t status;
	u8 member;
	u64 sector;		/* on the member */
};

/* Where a range goes. */
enum route { ROUTE_GO, ROUTE_WAIT, ROUTE_FAIL };

struct remap_route {
	struct block_device *bdev;
	u64 sector;
	u32 len;		/* how much of the range this answer holds for */
	u8 member;		/* 0 main, n + 1 spare n */
	u8 epoch;
	bool marked;
};

/* What became of one step of the slow path. */
struct remap_step {
	enum route route;
	u32 len;
	u8 member;
	u64 sector;
	u64 seen;
	blk_status_t status;
	bool lost;		/* a lost mark, not an error of the member */
};

static inline struct bio *remap_bio(struct remap_io *io)
{
	return dm_bio_from_per_bio_data(io, sizeof(*io));
}

static inline bool is_read(struct remap_io *io)
{
	return bio_op(remap_bio(io)) == REQ_OP_READ;
}

static inline u64 iter_len(const struct bvec_iter *iter)
{
	return iter->bi_size >> SECTOR_SHIFT;
}

/* How many remaps there are. */
static inline u64 remap_active(struct remap_device *rd)
{
	return READ_ONCE(rd->table.count);
}

static inline struct block_device *remap_member(struct remap_target *rt,
						unsigned int member)
{
	return member ? rt->spare[member - 1]->bdev : rt->main->bdev;
}

/* device.c */
int remap_device_adopt(struct remap_target *rt);
void remap_device_leave(struct remap_target *rt);
int remap_device_compatible(struct remap_target *rt);
bool remap_device_contested(struct remap_target *rt);
bool remap_each_device(void (*fn)(struct remap_device *rd));
void remap_collect(struct remap_device *rd);
extern bool remap_freezing;
extern struct notifier_block remap_pm;
void remap_event(struct remap_device *rd);
void remap_bounds_arm(struct remap_device *rd);

/* route.c */
enum route remap_route(struct remap_target *rt, u64 sector, u32 len,
		       bool write, struct remap_route *r);
enum route remap_gate(struct remap_target *rt, u64 sector, u32 *len);
static inline void remap_route_done(struct remap_device *rd, unsigned int epoch)
{
	this_cpu_dec(rd->pcpu->inflight[epoch]);
}

/* fence.c */
void remap_gate_update(struct remap_device *rd);
struct remap_fence *remap_fence_find(struct remap_device *rd, u64 id);
int remap_fence_add(struct remap_target *rt, u64 start, u64 len, u32 ms, u32 *id);
int remap_fence_seal(struct remap_device *rd, u64 id);
int remap_fence_end(struct remap_device *rd, u64 id);
int remap_fence_allows(struct remap_device *rd, u64 id, u64 start, u64 len);
bool remap_fence_bounds(struct remap_device *rd, unsigned long *next);
void remap_drain_work(struct work_struct *work);
void remap_fence_free_all(struct remap_device *rd);

/* Errors are in a row only if nothing succeeded between them. */
static inline void remap_succeeded(struct remap_device *rd)
{
	if (unlikely(READ_ONCE(rd->health.streak)))
		WRITE_ONCE(rd->health.streak, 0);
}

/* watch.c */
int remap_watch_add(struct remap_target *rt, u64 start, u64 len, u32 ms, u32 *id);
int remap_watch_end(struct remap_device *rd, u64 id);
void remap_watch_count(struct remap_device *rd, u64 sector, u32 len);
/* Before the write leaves its epoch. */
static inline void remap_watch_returned(struct remap_device *rd, u64 sector, u32 len)
{
	if (unlikely(READ_ONCE(rd->gated)))
		remap_watch_count(rd, sector, len);
}
bool remap_watch_round_begin(struct remap_device *rd);
void remap_watch_round_end(struct remap_device *rd);
void remap_watch_bounds(struct remap_device *rd, unsigned long *next);
void remap_reply_watches(struct remap_device *rd, char *result, unsigned int maxlen);
void remap_watch_free_all(struct remap_device *rd);

/* hold.c */
enum hold { HOLD_NO, HOLD_YES, HOLD_AGAIN, HOLD_REQUEUE };
bool remap_may_hold(struct remap_io *io, u8 member, blk_status_t status);
enum hold remap_hold(struct remap_piece *p, u64 seen);
void remap_changed(struct remap_device *rd);
void remap_drop_pieces(struct remap_io *io);
unsigned int remap_decide(struct remap_device *rd, u64 start, u64 end,
			  enum verdict v, bool only_reads);
unsigned int remap_decide_locked(struct remap_device *rd, u64 start, u64 end,
				 enum verdict v);
bool remap_hold_bounds(struct remap_device *rd, unsigned long *next);
void remap_hold_suspend(struct remap_target *rt, bool noflush);
void remap_abandon(struct remap_target *rt);
enum hold remap_wait(struct remap_io *io, u64 sector, u32 len);
void remap_kick(struct remap_device *rd);

/* flush.c */
bool remap_flush_latched(struct remap_device *rd);
void remap_flush_forget(struct remap_device *rd);
int remap_flush_map(struct remap_io *io, struct bio *bio);
int remap_flush_done(struct remap_io *io, struct bio *bio, blk_status_t *status);
bool remap_own_flushes_ended(struct remap_device *rd);
int remap_own_flush_begin(struct remap_device *rd, unsigned int n);
void remap_own_flush_end(struct remap_device *rd, unsigned int n, bool failed);
void remap_own_flush_lost(struct remap_device *rd);
void remap_flush_requeue(struct remap_device *rd);
void remap_flush_bounds(struct remap_device *rd, unsigned long *next);

/* drive.c */
void remap_drive(struct remap_io *io, const struct bvec_iter *iter,
		 struct remap_step *s);

/* slow.c */
void remap_slow_start(struct remap_io *io);
void remap_slow_prepare(struct remap_io *io);
bool remap_narrow(struct remap_io *io, blk_status_t why);
void remap_io_complete(struct remap_io *io, blk_status_t status);

/* ring.c */
int remap_ring_init(struct remap_ring *ring);
void remap_record(struct remap_device *rd, enum remap_kind kind,
		  const struct bio *bio, u8 member, u64 main, u64 sector,
		  u32 len, blk_status_t status);
void remap_errors(struct remap_device *rd, u64 since, char *result,
		  unsigned int maxlen);

/* counts.c */
void remap_sum_counts(struct remap_device *rd, struct remap_counts *c);
void remap_sample(struct remap_device *rd);
void remap_health_now(struct remap_device *rd, struct remap_report *r);

/* periodic.c */
void remap_periodic_start(void);
void remap_periodic_stop(void);

/* sysfs.c */
int remap_sysfs_init(void);
void remap_sysfs_exit(void);
int remap_folder_add(struct remap_device *rd);
void remap_folder_remove(struct remap_device *rd);

/* message.c, reply.c */
int remap_message(struct dm_target *ti, unsigned int argc, char **argv,
		  char *result, unsigned int maxlen);
int remap_reply_known(struct remap_target *rt, const char *what, char *result,
		      unsigned int maxlen);
void remap_clear_stats(struct remap_device *rd);
int remap_reply_dump(struct remap_device *rd, u64 from, char *result,
		     unsigned int maxlen);
void remap_reply_fences(struct remap_device *rd, char *result,
			unsigned int maxlen);
void remap_status_line(struct remap_target *rt, char *result,
		       unsigned int maxlen);

/* config.c */
int remap_config(struct remap_target *rt, unsigned int argc, char **argv);
void remap_config_free(struct remap_target *rt);

#endif
