// SPDX-License-Identifier: GPL-2.0-only
/*
 * I/O that waits: held pieces of what failed, and bios that met the closed
 * start or a fence. Every wait here has a bound (device.c runs them), and a
 * piece has one decider: whoever takes it off the held list under rd->lock.
 */
#include "remap.h"

/* rd->lock held. What a held piece ran into may be gone. */
void remap_changed(struct remap_device *rd)
{
	/* The change itself first, for who reads this before routing. */
	smp_store_release(&rd->changes, rd->changes + 1);
}

static bool lease_valid(struct remap_device *rd)
{
	return READ_ONCE(rd->lease) &&
	       time_before(jiffies, READ_ONCE(rd->lease_until));
}

/* Is this failure one that a remap may cure? Any context. */
bool remap_may_hold(struct remap_io *io, u8 member, blk_status_t status)
{
	struct remap_target *rt = io->rt;
	struct bio *bio = remap_bio(io);

	if (!rt->managed || !rt->hold_ms || !lease_valid(rt->rd) ||
	    READ_ONCE(remap_freezing))
		return false;
	if (status != BLK_STS_MEDIUM && status != BLK_STS_IOERR &&
	    status != BLK_STS_TARGET)
		return false;
	if (bio->bi_opf & (REQ_FAILFAST_MASK | REQ_RAHEAD))
		return false;
	/* What a spare serves and does not read, nothing can bring. */
	if (is_read(io) &&
	    (member || !READ_ONCE(rt->rd->hold_reads)))
		return false;
	if (bio_op(bio) != REQ_OP_WRITE && !is_read(io))
		return false;
	if (io->narrow)
		return time_before(jiffies, io->deadline);
	return !member && !READ_ONCE(rt->rd->no_new_holds);
}

/*
 * Put a piece on the held list. @seen is rd->changes from before the piece was
 * routed: if that has moved on, the piece has to be tried again first, since
 * whatever would have re-driven it has come and gone.
 */
enum hold remap_hold(struct remap_piece *p, u64 seen)
{
	struct remap_io *io = p->io;
	struct remap_device *rd = io->rt->rd;
	/* Reads leave writes their half: a write has nobody else to ask. */
	u32 part = is_read(io) ? 2 : 1;
	enum hold r;

	spin_lock_irq(&rd->lock);
	if (dm_noflush_suspending(io->rt->ti)) {
		r = HOLD_REQUEUE;
	} else if (io->rt->dead || !lease_valid(rd) || READ_ONCE(remap_freezing) ||
		   time_after_eq(jiffies, io->deadline) ||
		   rd->held_pieces >= REMAP_HELD_PIECES / part ||
		   rd->held_bytes + p->iter.bi_size > REMAP_HELD_BYTES / part) {
		r = HOLD_NO;
	} else if (rd->changes != seen) {
		r = HOLD_AGAIN;
	} else {
		list_add_tail(&p->list, &rd->held);
		rd->held_pieces++;
		rd->held_bytes += p->iter.bi_size;
		r = HOLD_YES;
	}
	spin_unlock_irq(&rd->lock);
	if (r == HOLD_YES)
		remap_bounds_arm(rd);
	return r;
}

/* rd->lock held. From here on the piece is its io's worker's again. */
static void take(struct remap_device *rd, struct remap_piece *p, enum verdict v)
{
	struct remap_io *io = p->io;

	rd->held_pieces--;
	rd->held_bytes -= p->iter.bi_size;
	p->verdict = v;
	list_move_tail(&p->list, &io->todo);
	if (!io->running) {
		io->running = true;
		queue_work(rd->slow_wq, &io->work);
	}
}

/* rd->lock held. Decide all held pieces that overlap the range. */
static unsigned int decide_locked(struct remap_device *rd, u64 start, u64 end,
				  enum verdict v, bool only_reads)
{
	struct remap_piece *p, *tmp;
	unsigned int n = 0;

	list_for_each_entry_safe(p, tmp, &rd->held, list) {
		u64 at = p->iter.bi_sector;

		if (only_reads && !is_read(p->io))
			continue;
		if (at < end && start < at + iter_len(&p->iter)) {
			take(rd, p, v);
			n++;
		}
	}
	return n;
}

unsigned int remap_decide_locked(struct remap_device *rd, u64 start, u64 end,
				 enum verdict v)
{
	return decide_locked(rd, start, end, v, false);
}

unsigned int remap_decide(struct remap_device *rd, u64 start, u64 end,
			  enum verdict v, bool only_reads)
{
	unsigned int n;

	spin_lock_irq(&rd->lock);
	if (v == V_REDRIVE)
		remap_changed(rd);
	n = decide_locked(rd, start, end, v, only_reads);
	spin_unlock_irq(&rd->lock);
	return n;
}

/* The worker of @io gives up on what it still holds. */
void remap_drop_pieces(struct remap_io *io)
{
	struct remap_device *rd = io->rt->rd;
	struct remap_piece *p, *tmp;
	LIST_HEAD(drop);

	spin_lock_irq(&rd->lock);
	list_for_each_entry_safe(p, tmp, &rd->held, list)
		if (p->io == io)
			take(rd, p, V_RELEASED);
	list_splice_init(&io->todo, &drop);
	io->pieces = 0;
	spin_unlock_irq(&rd->lock);

	list_for_each_entry_safe(p, tmp, &drop, list) {
		if (!io->requeue)
			remap_record(rd, KIND_RELEASED, remap_bio(io), p->member,
				     p->iter.bi_sector, p->sector,
				     iter_len(&p->iter), p->status);
		mempool_free(p, &rd->pieces);
	}
}

/* rd->lock held. Lease and deadlines; true if something was decided. */
bool remap_hold_bounds(struct remap_device *rd, unsigned long *next)
{
	struct remap_piece *p, *tmp;
	bool acted = false;

	if (rd->lease && time_after_eq(jiffies, rd->lease_until)) {
		WRITE_ONCE(rd->lease, false);
		acted = remap_decide_locked(rd, 0, U64_MAX, V_EXPIRED);
	} else if (rd->lease && time_before(rd->lease_until, *next)) {
		*next = rd->lease_until;
	}
	list_for_each_entry_safe(p, tmp, &rd->held, list) {
		unsigned long until = p->io->deadline;

		if (time_after_eq(jiffies, until)) {
			take(rd, p, V_EXPIRED);
			acted = true;
		} else if (time_before(until, *next)) {
			*next = until;
		}
	}
	return acted;
}

/*
 * Let @io wait for the gate. From map or from the io's worker; on HOLD_YES the
 * caller no longer owns the io.
 */
enum hold remap_wait(struct remap_io *io, u64 sector, u32 len)
{
	struct remap_device *rd = io->rt->rd;
	enum hold r = HOLD_AGAIN;
	unsigned long flags;

	spin_lock_irqsave(&rd->lock, flags);
	if (remap_gate(io->rt, sector, &len) == ROUTE_WAIT) {
		if (dm_noflush_suspending(io->rt->ti)) {
			r = HOLD_REQUEUE;
		} else {
			io->running = false;
			list_add_tail(&io->waiting, &rd->waiting);
			r = HOLD_YES;
		}
	}
	spin_unlock_irqrestore(&rd->lock, flags);
	return r;
}

/* rd->lock held. All that waits looks at the gate again. */
void remap_kick(struct remap_device *rd)
{
	struct remap_io *io, *tmp;

	list_for_each_entry_safe(io, tmp, &rd->waiting, waiting) {
		list_del_init(&io->waiting);
		io->running = true;
		queue_work(rd->slow_wq, &io->work);
	}
}

/*
 * presuspend. device-mapper takes bios back only while it suspends without
 * flushing; then all that waits goes back at once, and what has pieces in
 * flight, or fails only now, follows when they are done: remap_hold() hands it
 * back. Otherwise it runs to its bound, and what fails now fails.
 */
void remap_hold_suspend(struct remap_target *rt, bool noflush)
{
	struct remap_device *rd = rt->rd;
	struct remap_io *io, *tmp;
	LIST_HEAD(back);

	spin_lock_irq(&rd->lock);
	WRITE_ONCE(rd->no_new_holds, !noflush);
	if (noflush) {
		list_splice_init(&rd->waiting, &back);
		remap_decide_locked(rd, 0, U64_MAX, V_REQUEUE);
	}
	spin_unlock_irq(&rd->lock);

	list_for_each_entry_safe(io, tmp, &back, waiting) {
		list_del_init(&io->waiting);
		remap_io_complete(io, BLK_STS_DM_REQUEUE);
	}
	if (noflush)
		remap_flush_requeue(rd);
}

/* rd->lock held. Does anything of this instance wait? Then it fails now. */
static bool abandon(struct remap_target *rt)
{
	struct remap_device *rd = rt->rd;
	struct remap_piece *p, *ptmp;
	struct remap_io *io;
	bool any = false;

	WRITE_ONCE(rt->dead, true);
	list_for_each_entry_safe(p, ptmp, &rd->held, list) {
		if (p->io->rt == rt) {
			take(rd, p, V_RELEASED);
			any = true;
		}
	}
	list_for_each_entry(io, &rd->waiting, waiting)
		any |= io->rt == rt;
	if (any)
		remap_kick(rd);
	return any;
}

/*
 * The instance goes away. device-mapper has waited for its I/O before; should
 * something of it still wait here, it must not outlive its target. What waits
 * finds the gate, since whatever it waits for is still in force.
 */
void remap_abandon(struct remap_target *rt)
{
	struct remap_device *rd = rt->rd;
	bool any;

	spin_lock_irq(&rd->lock);
	any = abandon(rt);
	spin_unlock_irq(&rd->lock);
	if (any)
		flush_workqueue(rd->slow_wq);
}
