// SPDX-License-Identifier: GPL-2.0-only
/* Flushes: which members need one, and what follows when one fails. */
#include <linux/delay.h>
#include "remap.h"

/* Of the owner's flushes <n>, those of member <n> % 16. */
#define OWN_OF_MEMBER 0x0001000100010001ULL

/*
 * Does this flush have to reach spare @n? Not if nothing maps there, nor if
 * nothing was written there since the last flush that has *succeeded*: while
 * one is under way, or waits for the owner's, its outcome is open, so whoever
 * comes meanwhile sends its own.
 */
static bool flush_begin(struct remap_device *rd, unsigned int n)
{
	unsigned long flags;
	bool go;

	if (!(READ_ONCE(rd->table.used) & BIT(n)))
		return false;

	spin_lock_irqsave(&rd->flush_lock, flags);
	go = test_and_clear_bit(n, &rd->dirty) || rd->flushing[n];
	rd->flushing[n] += go;
	spin_unlock_irqrestore(&rd->flush_lock, flags);
	return go;
}

static void flush_end(struct remap_device *rd, unsigned int n, bool failed)
{
	unsigned long flags;

	spin_lock_irqsave(&rd->flush_lock, flags);
	if (failed)
		set_bit(n, &rd->dirty);
	rd->flushing[n]--;
	spin_unlock_irqrestore(&rd->flush_lock, flags);
}

static void record(struct remap_io *io, blk_status_t status)
{
	remap_record(io->rt->rd, KIND_FAILED, remap_bio(io), io->member,
		     REMAP_NO_SECTOR, 0, 0, status);
}

/*
 * Device-mapper forgets the error of a flush that came with data, and goes on
 * with the data. So a failed flush also fails the flushes and FUA writes behind
 * it, until the owner has seen it or the bound has passed. The bound begins when
 * the first of them is told.
 */
static bool latched(struct remap_device *rd)
{
	lockdep_assert_held(&rd->flush_lock);
	if (rd->flush_owed)
		rd->flush_failed_until = jiffies + msecs_to_jiffies(REMAP_LATCH_MS);
	else if (rd->flush_failed && time_after_eq(jiffies, rd->flush_failed_until))
		WRITE_ONCE(rd->flush_failed, false);
	rd->flush_owed = false;
	return rd->flush_failed;
}

bool remap_flush_latched(struct remap_device *rd)
{
	unsigned long flags;
	bool failed;

	if (likely(!READ_ONCE(rd->flush_failed)))
		return false;
	spin_lock_irqsave(&rd->flush_lock, flags);
	failed = latched(rd);
	spin_unlock_irqrestore(&rd->flush_lock, flags);
	return failed;
}

/* flush_lock held */
static void latch(struct remap_device *rd)
{
	lockdep_assert_held(&rd->flush_lock);
	WRITE_ONCE(rd->flush_failed, true);
	rd->flush_owed = false;
	rd->flush_failed_until = jiffies + msecs_to_jiffies(REMAP_LATCH_MS);
}

void remap_flush_forget(struct remap_device *rd)
{
	spin_lock_irq(&rd->flush_lock);
	WRITE_ONCE(rd->flush_failed, false);
	rd->flush_owed = false;
	spin_unlock_irq(&rd->flush_lock);
}

int remap_flush_map(struct remap_io *io, struct bio *bio)
{
	unsigned int member = dm_bio_get_target_bio_nr(bio);

	bio_set_dev(bio, remap_member(io->rt, member));
	if (member && !flush_begin(io->rt->rd, member - 1)) {
		bio_endio(bio);
		return DM_MAPIO_SUBMITTED;
	}
	io->state = IO_FLUSH;
	io->member = member;
	return DM_MAPIO_REMAPPED;
}

/*
 * The owner flushes members, too, past us. A drive that could not write what it
 * had in its cache says so once, to whoever flushes first. So what the owner is
 * told is passed on: a flush of ours that succeeds meanwhile is no success
 * before the owner's has come to its end. This is whether one is under way.
 */
static bool own_of(struct remap_device *rd, unsigned int member)
{
	lockdep_assert_held(&rd->flush_lock);
	return rd->own_flushes & OWN_OF_MEMBER << member;
}

enum after { AFTER_DONE, AFTER_FAILED, AFTER_OWED, AFTER_REQUEUE, AFTER_WAITS };

/* A flush of ours has succeeded. From AFTER_WAITS on it is not the caller's. */
static enum after after_flush(struct remap_io *io)
{
	struct remap_device *rd = io->rt->rd;
	enum after r = AFTER_DONE;
	unsigned long flags;
	bool owed;

	spin_lock_irqsave(&rd->flush_lock, flags);
	owed = rd->flush_owed;
	if (latched(rd)) {
		r = owed ? AFTER_OWED : AFTER_FAILED;
	} else if (own_of(rd, io->member)) {
		r = AFTER_WAITS;
		if (dm_noflush_suspending(io->rt->ti))
			r = AFTER_REQUEUE;
	}
	if (r == AFTER_WAITS) {
		io->deadline = jiffies + msecs_to_jiffies(REMAP_OWN_FLUSH_MS);
		list_add_tail(&io->waiting, &rd->after_own);
		/* Under the lock: without it the io, and we, may be gone. */
		remap_bounds_arm(rd);
	}
	spin_unlock_irqrestore(&rd->flush_lock, flags);
	return r;
}

/* May run in interrupt context. */
int remap_flush_done(struct remap_io *io, struct bio *bio, blk_status_t *status)
{
	struct remap_device *rd = io->rt->rd;
	enum after after = AFTER_DONE;
	unsigned long flags;

	if (*status) {
		spin_lock_irqsave(&rd->flush_lock, flags);
		latch(rd);
		spin_unlock_irqrestore(&rd->flush_lock, flags);
		record(io, *status);
	} else {
		after = after_flush(io);
	}
	switch (after) {
	case AFTER_WAITS:
		return DM_ENDIO_INCOMPLETE;
	case AFTER_REQUEUE:
		*status = BLK_STS_DM_REQUEUE;
		break;
	case AFTER_OWED:
		record(io, BLK_STS_IOERR);
		fallthrough;
	case AFTER_FAILED:
		*status = BLK_STS_IOERR;
		break;
	case AFTER_DONE:
		break;
	}
	if (io->member)
		flush_end(rd, io->member - 1, *status);
	return DM_ENDIO_DONE;
}

/* Before a freeze: the owner may be in the middle of one, and then frozen. */
bool remap_own_flushes_ended(struct remap_device *rd)
{
	unsigned int tries;
	bool ended;

	for (tries = 0;; tries++) {
		spin_lock_irq(&rd->flush_lock);
		ended = !rd->own_flushes;
		spin_unlock_irq(&rd->flush_lock);
		if (ended || tries == REMAP_FREEZE_MS / 10)
			return ended;
		msleep(10);
	}
}

/* None while the system freezes. */
int remap_own_flush_begin(struct remap_device *rd, unsigned int n)
{
	bool may;

	spin_lock_irq(&rd->flush_lock);
	may = !READ_ONCE(remap_freezing);
	if (may)
		rd->own_flushes |= BIT_ULL(n);
	spin_unlock_irq(&rd->flush_lock);
	return may ? 0 : -EBUSY;
}

/*
 * flush_lock held. What was lost can be of any flush from now on; @failed are
 * those that waited. A spare that serves nothing has lost nothing of anybody's.
 */
static void own_failed(struct remap_device *rd, unsigned int member,
		       struct list_head *failed)
{
	bool owed = rd->flush_owed, told = false;
	struct remap_io *io, *next;

	lockdep_assert_held(&rd->flush_lock);
	if (member && !(READ_ONCE(rd->table.used) & BIT(member - 1)))
		return;
	list_for_each_entry_safe(io, next, &rd->after_own, waiting) {
		if (io->member == member) {
			list_move_tail(&io->waiting, failed);
			told = true;
		}
	}
	if (member)
		set_bit(member - 1, &rd->dirty);
	latch(rd);
	rd->flush_owed = owed || !told;
}

/* flush_lock held. Those that no flush of the owner's keeps waiting. */
static void take_ended(struct remap_device *rd, struct list_head *ended)
{
	struct remap_io *io, *next;

	list_for_each_entry_safe(io, next, &rd->after_own, waiting)
		if (!own_of(rd, io->member))
			list_move_tail(&io->waiting, ended);
}

static void let_go(struct list_head *flushes, blk_status_t status)
{
	struct remap_io *io, *next;

	list_for_each_entry_safe(io, next, flushes, waiting) {
		list_del(&io->waiting);
		if (io->member)
			flush_end(io->rt->rd, io->member - 1, status);
		if (status == BLK_STS_IOERR)
			record(io, status);
		remap_io_complete(io, status);
	}
}

void remap_own_flush_end(struct remap_device *rd, unsigned int n, bool failed)
{
	LIST_HEAD(failing);
	LIST_HEAD(ended);

	spin_lock_irq(&rd->flush_lock);
	rd->own_flushes &= ~BIT_ULL(n);
	if (failed)
		own_failed(rd, n % 16, &failing);
	take_ended(rd, &ended);
	spin_unlock_irq(&rd->flush_lock);
	let_go(&failing, BLK_STS_IOERR);
	let_go(&ended, BLK_STS_OK);
}

/* flush_lock held. Nobody will say how the owner's flushes ended. */
static void own_lost(struct remap_device *rd, struct list_head *failing)
{
	unsigned int member;

	for (member = 0; member <= REMAP_MAX_SPARES; member++)
		if (own_of(rd, member))
			own_failed(rd, member, failing);
	rd->own_flushes = 0;
}

void remap_own_flush_lost(struct remap_device *rd)
{
	LIST_HEAD(failing);
	LIST_HEAD(ended);

	spin_lock_irq(&rd->flush_lock);
	own_lost(rd, &failing);
	take_ended(rd, &ended);
	spin_unlock_irq(&rd->flush_lock);
	let_go(&failing, BLK_STS_IOERR);
	let_go(&ended, BLK_STS_OK);
}

/* device-mapper takes them back, and sends them again. */
void remap_flush_requeue(struct remap_device *rd)
{
	LIST_HEAD(back);

	spin_lock_irq(&rd->flush_lock);
	list_splice_init(&rd->after_own, &back);
	spin_unlock_irq(&rd->flush_lock);
	let_go(&back, BLK_STS_DM_REQUEUE);
}

/*
 * Those that have waited for too long fail. The owner's own go on being waited
 * for while it lives: what they lose is not known yet.
 */
void remap_flush_bounds(struct remap_device *rd, unsigned long *next)
{
	struct remap_io *io, *tmp;
	LIST_HEAD(failing);

	spin_lock_irq(&rd->flush_lock);
	list_for_each_entry_safe(io, tmp, &rd->after_own, waiting) {
		if (time_before(jiffies, io->deadline)) {
			if (time_before(io->deadline, *next))
				*next = io->deadline;
			break;
		}
		list_move_tail(&io->waiting, &failing);
		latch(rd);
	}
	if (!list_empty(&failing) && !READ_ONCE(rd->lease))
		own_lost(rd, &failing);
	spin_unlock_irq(&rd->flush_lock);
	let_go(&failing, BLK_STS_IOERR);
}
