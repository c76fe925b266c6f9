// SPDX-License-Identifier: GPL-2.0-only
/* Flushes: which members need one, and what follows when one fails. */
#include "remap.h"

/*
 * Does this flush have to reach spare @n? Not if nothing maps there, nor if
 * nothing was written there since the last flush that has *succeeded*: while
 * one is under way its outcome is open, so whoever comes meanwhile sends its own.
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
 * The owner flushes the spares, too, past us. A drive that could not write what
 * it had in its cache says so once, to whoever flushes first. So what the owner
 * is told is passed on: a flush of ours that succeeds meanwhile is no success
 * before the owner's has come to its end.
 */
static int spare_flushed(struct remap_io *io, blk_status_t *status)
{
	struct remap_device *rd = io->rt->rd;
	bool failed, waits, first;
	unsigned long flags;

	spin_lock_irqsave(&rd->flush_lock, flags);
	failed = latched(rd);
	waits = !failed && rd->own_flushes;
	first = waits && list_empty(&rd->after_own);
	if (waits)
		list_add_tail(&io->waiting, &rd->after_own);
	if (first)
		rd->after_own_until = jiffies + msecs_to_jiffies(REMAP_OWN_FLUSH_MS);
	spin_unlock_irqrestore(&rd->flush_lock, flags);

	if (first)
		remap_bounds_arm(rd);
	if (failed)
		*status = BLK_STS_IOERR;
	return waits ? DM_ENDIO_INCOMPLETE : DM_ENDIO_DONE;
}

/* May run in interrupt context. */
int remap_flush_done(struct remap_io *io, struct bio *bio, blk_status_t *status)
{
	struct remap_device *rd = io->rt->rd;
	unsigned long flags;

	if (io->member)
		flush_end(rd, io->member - 1, *status);
	if (!*status)
		return io->member ? spare_flushed(io, status) : DM_ENDIO_DONE;
	spin_lock_irqsave(&rd->flush_lock, flags);
	latch(rd);
	spin_unlock_irqrestore(&rd->flush_lock, flags);
	remap_record(rd, KIND_FAILED, bio, io->member, REMAP_NO_SECTOR, 0, 0,
		     *status);
	return DM_ENDIO_DONE;
}

void remap_own_flush_begin(struct remap_device *rd, unsigned int n)
{
	spin_lock_irq(&rd->flush_lock);
	rd->own_flushes |= BIT_ULL(n);
	spin_unlock_irq(&rd->flush_lock);
}

/* flush_lock held. The data that was lost can be that of any flush from now on. */
static void own_failed(struct remap_device *rd)
{
	lockdep_assert_held(&rd->flush_lock);
	rd->dirty = ~0UL;
	latch(rd);
	rd->flush_owed = list_empty(&rd->after_own);
}

static void let_go(struct list_head *flushes, blk_status_t status)
{
	struct remap_io *io, *next;

	list_for_each_entry_safe(io, next, flushes, waiting) {
		list_del(&io->waiting);
		remap_io_complete(io, status);
	}
}

void remap_own_flush_end(struct remap_device *rd, unsigned int n, bool failed)
{
	LIST_HEAD(flushes);

	spin_lock_irq(&rd->flush_lock);
	rd->own_flushes &= ~BIT_ULL(n);
	if (failed)
		own_failed(rd);
	if (failed || !rd->own_flushes)
		list_splice_init(&rd->after_own, &flushes);
	spin_unlock_irq(&rd->flush_lock);
	let_go(&flushes, failed ? BLK_STS_IOERR : BLK_STS_OK);
}

/* Nobody will say how the owner's flushes ended. */
void remap_own_flush_lost(struct remap_device *rd)
{
	LIST_HEAD(flushes);

	spin_lock_irq(&rd->flush_lock);
	if (rd->own_flushes) {
		rd->own_flushes = 0;
		own_failed(rd);
		list_splice_init(&rd->after_own, &flushes);
	}
	spin_unlock_irq(&rd->flush_lock);
	let_go(&flushes, BLK_STS_IOERR);
}

void remap_flush_bounds(struct remap_device *rd, unsigned long *next)
{
	bool passed = false;

	spin_lock_irq(&rd->flush_lock);
	if (!list_empty(&rd->after_own)) {
		passed = time_after_eq(jiffies, rd->after_own_until);
		if (!passed && time_before(rd->after_own_until, *next))
			*next = rd->after_own_until;
	}
	spin_unlock_irq(&rd->flush_lock);
	if (passed)
		remap_own_flush_lost(rd);
}
