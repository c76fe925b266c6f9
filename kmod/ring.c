// SPDX-License-Identifier: GPL-2.0-only
/*
 * The error ring: what failed, where exactly, in order. Bounded; a reader
 * that was too slow sees it as a gap in the sequence numbers.
 */
#include <linux/ktime.h>
#include <linux/slab.h>

#include "compat.h"
#include "remap.h"

#define REPLY_RECORDS 128
/* More than any record takes: five numbers of 20 digits and the words. */
#define RECORD_ROOM 192

int remap_ring_init(struct remap_ring *ring)
{
	spin_lock_init(&ring->lock);
	ring->next = 1;
	ring->r = kvcalloc(REMAP_RING_SIZE, sizeof(*ring->r), GFP_KERNEL);
	return ring->r ? 0 : -ENOMEM;
}

static const char *op_name(u32 opf)
{
	if (opf & (__force u32)REQ_PREFLUSH)
		return "flush";
	switch (opf & (__force u32)REQ_OP_MASK) {
	case (__force u32)REQ_OP_READ:
		return "read";
	case (__force u32)REQ_OP_DISCARD:
		return "discard";
	case (__force u32)REQ_OP_WRITE_ZEROES:
		return "zeroes";
	case (__force u32)REQ_OP_SECURE_ERASE:
		return "erase";
	default:
		return "write";
	}
}

static const char *status_name(blk_status_t status)
{
	switch (status) {
	case BLK_STS_MEDIUM:
		return "medium";
	case BLK_STS_IOERR:
		return "ioerr";
	case BLK_STS_TARGET:
		return "target";
	case BLK_STS_TRANSPORT:
		return "transport";
	case BLK_STS_RESV_CONFLICT:
		return "nexus";
	case BLK_STS_TIMEOUT:
		return "timeout";
	case BLK_STS_PROTECTION:
		return "protection";
	case BLK_STS_NOSPC:
		return "nospc";
	case BLK_STS_RESOURCE:
	case BLK_STS_DEV_RESOURCE:
		return "resource";
	case BLK_STS_AGAIN:
		return "again";
	case BLK_STS_OFFLINE:
		return "offline";
	default:
		return "other";
	}
}

/* Any context. */
void remap_record(struct remap_device *rd, enum remap_kind kind,
		  const struct bio *bio, u8 member, u64 main, u64 sector,
		  u32 len, blk_status_t status)
{
	struct remap_ring *ring = &rd->ring;
	struct remap_record *rec;
	unsigned long flags;
	u32 opf = (__force u32)(bio->bi_opf &
		(REQ_OP_MASK | REQ_RAHEAD | REQ_FUA | REQ_FAILFAST_MASK | REQ_PREFLUSH));
	u64 now = ktime_get_ns();

	spin_lock_irqsave(&ring->lock, flags);
	rec = &ring->r[ring->next % REMAP_RING_SIZE];
	rec->seq = ring->next++;
	rec->kind = kind;
	rec->opf = opf;
	rec->member = member;
	rec->main = main;
	rec->sector = sector;
	rec->len = len;
	rec->status = status;
	rec->ns = now;
	if (kind == KIND_FAILED || kind == KIND_HELD) {
		atomic64_inc(&rd->errors);
		remap_health_error(&rd->health, now);
	}
	spin_unlock_irqrestore(&ring->lock, flags);
	/* The owner of a managed one reads the ring, and other errors from the log. */
	if (!rd->managed && kind == KIND_FAILED)
		pr_err_ratelimited(REMAP_LOG "I/O error: %s of %u sectors at %llu on %s, status %s\n",
				   op_name(opf), len, sector,
				   member ? "a spare" : "main", status_name(status));
	remap_event(rd);
}

static const char *flag_names(u32 opf)
{
	static const char *const names[] = {
		"-", "ra", "failfast", "ra,failfast",
		"fua", "ra,fua", "failfast,fua", "ra,failfast,fua",
	};

	unsigned int i = 0;

	if (opf & (__force u32)REQ_RAHEAD)
		i |= 1;
	if (opf & (__force u32)REQ_FAILFAST_MASK)
		i |= 2;
	if (opf & (__force u32)REQ_FUA)
		i |= 4;
	return names[i];
}

static unsigned int emit_record(const struct remap_record *rec, u64 now,
				char *result, unsigned int sz, unsigned int maxlen)
{
	static const char *const kinds[] = {
		"failed", "held", "healed", "expired", "released",
	};

	DMEMIT("e %llu %s %s ", rec->seq, kinds[rec->kind], op_name(rec->opf));
	if (rec->member)
		DMEMIT("spare%u ", rec->member - 1);
	else
		DMEMIT("main ");
	if (rec->main == REMAP_NO_SECTOR)
		DMEMIT("- ");
	else
		DMEMIT("%llu ", rec->main);
	DMEMIT("%llu %u %s %llu %s\n", rec->sector, rec->len,
	       status_name(rec->status), div_u64(now - rec->ns, NSEC_PER_MSEC),
	       flag_names(rec->opf));
	return sz;
}

/* The records from @since on, as many as fit. */
void remap_errors(struct remap_device *rd, u64 since, char *result,
		  unsigned int maxlen)
{
	struct remap_ring *ring = &rd->ring;
	unsigned int sz = 0, n = 0;
	u64 now, oldest, next, seq;

	spin_lock_irq(&ring->lock);
	now = ktime_get_ns();
	next = ring->next;
	oldest = next > REMAP_RING_SIZE ? next - REMAP_RING_SIZE : 1;
	DMEMIT("errors %llu %llu\n", oldest, next);
	for (seq = max(since, oldest); seq < next; seq++) {
		if (n++ == REPLY_RECORDS || maxlen - sz < RECORD_ROOM)
			break;
		sz = emit_record(&ring->r[seq % REMAP_RING_SIZE], now,
				 result, sz, maxlen);
	}
	spin_unlock_irq(&ring->lock);
}
