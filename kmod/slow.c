// SPDX-License-Identifier: GPL-2.0-only
/*
 * The slow path: one worker drives one bio, piece by piece and synchronously.
 *
 * It serves what cannot go straight through map: bios that waited, reads that
 * may meet lost marks, and failed writes. Only the worker touches an io while
 * io->running; the deciders in hold.c only hand it pieces and wake it.
 */
#define DM_MSG_PREFIX "remap-v4"

#include "remap.h"

static void slow_work(struct work_struct *work);

/* Set up the part of @io that the fast path leaves alone. Any context. */
void remap_slow_prepare(struct remap_io *io)
{
	INIT_WORK(&io->work, slow_work);
	INIT_LIST_HEAD(&io->waiting);
	INIT_LIST_HEAD(&io->todo);
	io->rest = io->iter;
	io->pieces = 0;
	io->running = true;
	io->narrow = false;
	io->requeue = false;
	io->status = BLK_STS_OK;
}

void remap_slow_start(struct remap_io *io)
{
	queue_work(io->rt->rd->slow_wq, &io->work);
}

/*
 * From now on block by block, and with a deadline. False: so many reads do that
 * already that they would keep failed writes from the workers. Any context.
 */
bool remap_narrow(struct remap_io *io, blk_status_t why)
{
	atomic_t *reads = &io->rt->rd->narrow_reads;

	if (is_read(io) &&
	    atomic_inc_return(reads) > REMAP_NARROW_READS) {
		atomic_dec(reads);
		return false;
	}
	io->narrow = true;
	io->first = why;
	io->deadline = jiffies + msecs_to_jiffies(io->rt->hold_ms);
	if (READ_ONCE(remap_debug))
		DMINFO("narrowing %s %llu+%llu, status %u",
		       is_read(io) ? "read" : "write",
		       (u64)io->iter.bi_sector, iter_len(&io->iter),
		       (__force u8)why);
	return true;
}

static void end_narrow(struct remap_io *io)
{
	if (io->narrow && is_read(io))
		atomic_dec(&io->rt->rd->narrow_reads);
	io->narrow = false;
}

void remap_io_complete(struct remap_io *io, blk_status_t status)
{
	struct bio *bio = remap_bio(io);

	io->state = IO_DONE;
	bio->bi_status = status;
	/* The first completion has been accounted already, if there was one. */
	bio_clear_flag(bio, BIO_QOS_THROTTLED);
	bio_clear_flag(bio, BIO_QOS_MERGED);
	bio_endio(bio);
}

static void advance(struct remap_io *io, struct bvec_iter *iter, u32 len)
{
	bio_advance_iter(remap_bio(io), iter, len << SECTOR_SHIFT);
}

static void note_error(struct remap_io *io, blk_status_t status)
{
	if (!io->status)
		io->status = status;
}

/* Nothing can save this bio any more. */
static void give_up(struct remap_io *io, blk_status_t status)
{
	note_error(io, status);
	io->rest.bi_size = 0;
	remap_drop_pieces(io);
}

static void hand_back(struct remap_io *io)
{
	io->requeue = true;
	io->rest.bi_size = 0;
	remap_drop_pieces(io);
}

static void record_step(struct remap_io *io, enum remap_kind kind, u64 main,
			const struct remap_step *s, blk_status_t status)
{
	remap_record(io->rt->rd, kind, remap_bio(io), s->member, main,
		     s->sector, s->len, status);
}

static void count_piece(struct remap_io *io, int n)
{
	spin_lock_irq(&io->rt->rd->lock);
	io->pieces += n;
	spin_unlock_irq(&io->rt->rd->lock);
}

/* Hold the step's part of the rest; @failed: it was tried, not only fenced. */
static void hold_rest(struct remap_io *io, const struct remap_step *s,
		      blk_status_t status, bool failed)
{
	struct remap_device *rd = io->rt->rd;
	struct remap_piece *p = mempool_alloc(&rd->pieces, GFP_NOWAIT);
	enum hold r = HOLD_NO;

	if (p) {
		p->io = io;
		p->iter = io->rest;
		p->iter.bi_size = s->len << SECTOR_SHIFT;
		p->status = status;
		p->member = s->member;
		p->sector = s->sector;
		count_piece(io, 1);
		r = remap_hold(p, s->seen);
		if (r != HOLD_YES) {
			count_piece(io, -1);
			mempool_free(p, &rd->pieces);
		}
	}
	switch (r) {
	case HOLD_YES:
		if (failed)
			record_step(io, KIND_HELD, io->rest.bi_sector, s, status);
		advance(io, &io->rest, s->len);
		break;
	case HOLD_AGAIN:
		break;
	case HOLD_REQUEUE:
		hand_back(io);
		break;
	case HOLD_NO:
		record_step(io, KIND_FAILED, io->rest.bi_sector, s, status);
		give_up(io, status);
		break;
	}
}

/* What is left of a failed write is not tried any more: the first error counts. */
static void stop_narrowing(struct remap_io *io)
{
	u64 main = io->rest.bi_sector;

	remap_record(io->rt->rd, KIND_FAILED, remap_bio(io), 0, main, main,
		     iter_len(&io->rest), io->first);
	give_up(io, io->first);
}

static void rest_failed(struct remap_io *io, const struct remap_step *s)
{
	/* Neither is an error of the member. */
	if (s->lost || s->status == BLK_STS_NOTSUPP) {
		give_up(io, s->status);
	} else if (!remap_may_hold(io, s->member, s->status)) {
		record_step(io, KIND_FAILED, io->rest.bi_sector, s, s->status);
		give_up(io, s->status);
	} else if (io->narrow) {
		hold_rest(io, s, s->status, true);
	} else if (!remap_narrow(io, s->status)) {
		record_step(io, KIND_FAILED, io->rest.bi_sector, s, s->status);
		give_up(io, s->status);
	}
}

/* Drive what was not tried yet. False: the io waits and is no longer ours. */
static bool drive_rest(struct remap_io *io)
{
	struct remap_step s;

	while (io->rest.bi_size) {
		if (io->narrow && time_after_eq(jiffies, io->deadline)) {
			stop_narrowing(io);
			break;
		}
		remap_drive(io, &io->rest, &s);
		if (s.route == ROUTE_FAIL && io->narrow) {
			stop_narrowing(io);
		} else if (s.route == ROUTE_FAIL) {
			give_up(io, BLK_STS_IOERR);
		} else if (s.route == ROUTE_GO) {
			if (s.status)
				rest_failed(io, &s);
			else
				advance(io, &io->rest, s.len);
		} else if (io->narrow) {
			hold_rest(io, &s, io->first, false);
		} else {
			enum hold r = remap_wait(io, io->rest.bi_sector, s.len);

			if (r == HOLD_YES)
				return false;
			if (r == HOLD_REQUEUE)
				hand_back(io);
		}
	}
	return true;
}

static void free_piece(struct remap_io *io, struct remap_piece *p)
{
	count_piece(io, -1);
	mempool_free(p, &io->rt->rd->pieces);
}

/* The piece gets its error. */
static void fail_piece(struct remap_io *io, struct remap_piece *p,
		       enum remap_kind kind)
{
	remap_record(io->rt->rd, kind, remap_bio(io), p->member,
		     p->iter.bi_sector, p->sector, iter_len(&p->iter), p->status);
	note_error(io, p->status);
	free_piece(io, p);
	/* A part of a write is worth bringing home; a read has failed as a whole. */
	if (is_read(io))
		give_up(io, io->status);
}

/* A redriven piece cannot go on now. True: try it again at once. */
static bool hold_again(struct remap_io *io, struct remap_piece *p,
		       const struct remap_step *s)
{
	if (s->status) {
		p->status = s->status;
		p->member = s->member;
		p->sector = s->sector;
		if (!remap_may_hold(io, s->member, s->status)) {
			fail_piece(io, p, KIND_FAILED);
			give_up(io, s->status);
			return false;
		}
	}
	switch (remap_hold(p, s->seen)) {
	case HOLD_YES:
		if (s->status)
			record_step(io, KIND_HELD, p->iter.bi_sector, s, s->status);
		return false;
	case HOLD_AGAIN:
		return true;
	case HOLD_REQUEUE:
		io->requeue = true;
		free_piece(io, p);
		hand_back(io);
		return false;
	case HOLD_NO:
		break;
	}
	fail_piece(io, p, KIND_EXPIRED);
	return false;
}

static void redrive(struct remap_io *io, struct remap_piece *p)
{
	u64 main = p->iter.bi_sector;
	u32 len = iter_len(&p->iter);
	u64 sector = p->sector;
	struct remap_step s = { };

	while (p->iter.bi_size) {
		remap_drive(io, &p->iter, &s);
		if (p->iter.bi_sector == main)
			sector = s.sector;
		if (s.route == ROUTE_FAIL) {
			fail_piece(io, p, KIND_EXPIRED);
			return;
		}
		if (s.lost) {
			/* Cured, and its content is not there: no error of the spare's. */
			fail_piece(io, p, KIND_RELEASED);
			return;
		}
		if (s.route == ROUTE_GO && !s.status)
			advance(io, &p->iter, s.len);
		else if (!hold_again(io, p, &s))
			return;
	}
	remap_record(io->rt->rd, KIND_HEALED, remap_bio(io), s.member, main,
		     sector, len, BLK_STS_OK);
	free_piece(io, p);
}

static void run_todo(struct remap_io *io)
{
	struct remap_device *rd = io->rt->rd;
	struct remap_piece *p;

	for (;;) {
		spin_lock_irq(&rd->lock);
		p = list_first_entry_or_null(&io->todo, struct remap_piece, list);
		if (p)
			list_del_init(&p->list);
		spin_unlock_irq(&rd->lock);
		if (!p)
			return;
		switch (p->verdict) {
		case V_REDRIVE:
			redrive(io, p);
			break;
		case V_EXPIRED:
			fail_piece(io, p, KIND_EXPIRED);
			break;
		case V_RELEASED:
			fail_piece(io, p, KIND_RELEASED);
			break;
		case V_REQUEUE:
			io->requeue = true;
			free_piece(io, p);
			hand_back(io);
			break;
		}
	}
}

/* Nothing left to do for now? Then either it is all done, or a decider wakes us. */
enum rest_of { SETTLED, MORE, ASLEEP };

static enum rest_of settled(struct remap_io *io)
{
	struct remap_device *rd = io->rt->rd;
	enum rest_of r = SETTLED;

	spin_lock_irq(&rd->lock);
	if (!list_empty(&io->todo)) {
		r = MORE;
	} else if (io->pieces) {
		io->running = false;
		r = ASLEEP;
	}
	spin_unlock_irq(&rd->lock);
	return r;
}

static void slow_work(struct work_struct *work)
{
	struct remap_io *io = container_of(work, struct remap_io, work);

	for (;;) {
		if (!drive_rest(io))
			return;
		run_todo(io);
		switch (settled(io)) {
		case ASLEEP:
			return;
		case MORE:
			continue;
		case SETTLED:
			break;
		}
		/* The device may go with the last of its I/O. */
		end_narrow(io);
		if (!io->requeue) {
			if (!io->status)
				remap_succeeded(io->rt->rd);
			remap_io_complete(io, io->status);
			return;
		}
		if (dm_noflush_suspending(io->rt->ti)) {
			remap_io_complete(io, BLK_STS_DM_REQUEUE);
			return;
		}
		/* The suspend was interrupted: all of it once more, here. */
		io->rest = io->iter;
		io->requeue = false;
		io->status = BLK_STS_OK;
	}
}
