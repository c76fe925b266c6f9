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
 * it, until the owner has seen it or the bound has passed.
 */
bool remap_flush_latched(struct remap_device *rd)
{
	unsigned long flags;
	bool latched;

	if (likely(!READ_ONCE(rd->flush_failed)))
		return false;
	spin_lock_irqsave(&rd->flush_lock, flags);
	if (time_after_eq(jiffies, rd->flush_failed_until))
		WRITE_ONCE(rd->flush_failed, false);
	latched = rd->flush_failed;
	spin_unlock_irqrestore(&rd->flush_lock, flags);
	return latched;
}

static void latch(struct remap_device *rd)
{
	unsigned long flags;

	spin_lock_irqsave(&rd->flush_lock, flags);
	WRITE_ONCE(rd->flush_failed, true);
	rd->flush_failed_until = jiffies + msecs_to_jiffies(REMAP_LATCH_MS);
	spin_unlock_irqrestore(&rd->flush_lock, flags);
}

void remap_flush_forget(struct remap_device *rd)
{
	spin_lock_irq(&rd->flush_lock);
	WRITE_ONCE(rd->flush_failed, false);
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

/* May run in interrupt context. */
void remap_flush_done(struct remap_io *io, struct bio *bio, blk_status_t status)
{
	struct remap_device *rd = io->rt->rd;

	if (io->member)
		flush_end(rd, io->member - 1, status);
	if (!status)
		return;
	latch(rd);
	remap_record(rd, KIND_FAILED, bio, io->member, REMAP_NO_SECTOR, 0, 0,
		     status);
}
