// SPDX-License-Identifier: GPL-2.0-only
/*
 * One step of the slow path: route the start of a range and do that much of it,
 * synchronously, with bios of our own.
 */
#include <linux/bvec.h>

#include "remap.h"

/* Re-issue @len sectors at @at of the parent to where the route says. */
static blk_status_t submit_clone(struct remap_io *io, const struct bvec_iter *at,
				 const struct remap_route *r)
{
	struct bio *parent = remap_bio(io), *bio;
	blk_status_t status;

	bio = bio_alloc_clone(r->bdev, parent, GFP_NOIO, &io->rt->rd->bios);
	if (!bio)
		return BLK_STS_RESOURCE;
	/* Also drops BIO_REMAPPED: our sectors count from the partition. */
	bio_set_dev(bio, r->bdev);
	bio->bi_opf &= ~(REQ_NOWAIT | REQ_POLLED | REQ_RAHEAD);
	/* A healed write is acknowledged only when it is on the medium. */
	if (io->narrow && r->member && bio_op(bio) == REQ_OP_WRITE)
		bio->bi_opf |= REQ_FUA;
	bio->bi_iter = *at;
	bio->bi_iter.bi_size = r->len << SECTOR_SHIFT;
	bio->bi_iter.bi_sector = r->sector;
	submit_bio_wait(bio);
	status = bio->bi_status;
	/* A write that failed may have left a part in the spare's cache. */
	if (r->member && op_is_write(bio_op(bio)) &&
	    (status || !(bio->bi_opf & REQ_FUA)))
		set_bit(r->member - 1, &io->rt->rd->dirty);
	bio_put(bio);
	return status;
}

static bool any_lost(struct remap_target *rt, const u8 *data, u64 main, u32 bytes)
{
	struct remap_device *rd = rt->rd;
	u8 key[REMAP_KEY_SIZE];
	bool has_key, lost = false;
	u32 at;

	spin_lock_irq(&rd->lock);
	has_key = rd->has_key;
	memcpy(key, rd->key, sizeof(key));
	spin_unlock_irq(&rd->lock);

	for (at = 0; at < bytes && !lost; at += rt->block_size)
		lost = !has_key ||
		       remap_is_mark(data + at, rt->block_size,
				     main + (at >> SECTOR_SHIFT), key);
	memzero_explicit(key, sizeof(key));
	return lost;
}

/*
 * Read through a buffer of our own: the caller's pages could change under the
 * check, and no byte of a mark may reach them, not even before an error.
 */
static blk_status_t read_marked(struct remap_io *io, const struct bvec_iter *at,
				const struct remap_route *r, bool *lost)
{
	struct remap_device *rd = io->rt->rd;
	struct bio *parent = remap_bio(io), *bio;
	u32 bytes = r->len << SECTOR_SHIFT;
	struct page *page = mempool_alloc(&rd->bounce, GFP_NOIO);
	struct bvec_iter iter, part = *at;
	struct bio_vec bv;
	blk_status_t status;
	u8 *data = page_address(page);

	bio = bio_alloc_bioset(r->bdev, 1, REQ_OP_READ, GFP_NOIO, &rd->bios);
	bio->bi_iter.bi_sector = r->sector;
	__bio_add_page(bio, page, bytes, 0);
	submit_bio_wait(bio);
	status = bio->bi_status;
	bio_put(bio);

	*lost = !status && any_lost(io->rt, data, at->bi_sector, bytes);
	if (*lost) {
		status = BLK_STS_MEDIUM;
	} else if (!status) {
		part.bi_size = bytes;
		__bio_for_each_segment(bv, parent, iter, part) {
			memcpy_to_bvec(&bv, data);
			data += bv.bv_len;
		}
	}
	mempool_free(page, &rd->bounce);
	return status;
}

/* How far to the end of the physical block of main that holds @sector? */
static u32 block_left(struct remap_target *rt, u64 sector)
{
	struct block_device *bdev = rt->main->bdev;
	u32 block = bdev_physical_block_size(bdev) >> SECTOR_SHIFT;

	return block - ((sector + get_start_sect(bdev)) & (block - 1));
}

/* Route the start of @iter and do the I/O, if it may go. */
void remap_drive(struct remap_io *io, const struct bvec_iter *iter,
		 struct remap_step *s)
{
	struct remap_target *rt = io->rt;
	enum req_op op = bio_op(remap_bio(io));
	struct remap_route r;

	s->seen = smp_load_acquire(&rt->rd->changes);
	s->status = BLK_STS_OK;
	s->lost = false;
	s->route = remap_route(rt, iter->bi_sector, iter_len(iter), op_is_write(op), &r);
	if (s->route != ROUTE_GO) {
		r.member = 0;
		r.sector = iter->bi_sector;
	}
	if (io->narrow)
		r.len = min(r.len, block_left(rt, iter->bi_sector));
	if (s->route == ROUTE_GO) {
		if (op == REQ_OP_SECURE_ERASE && r.member) {
			/* It would leave the old content on main. */
			s->status = BLK_STS_NOTSUPP;
		} else if (op == REQ_OP_READ && r.marked) {
			r.len = min_t(u32, r.len, REMAP_BOUNCE_BYTES >> SECTOR_SHIFT);
			s->status = read_marked(io, iter, &r, &s->lost);
		} else {
			s->status = submit_clone(io, iter, &r);
		}
		if (op_is_write(op))
			remap_watch_returned(rt->rd, iter->bi_sector, r.len);
		remap_route_done(rt->rd, r.epoch);
	}
	s->len = r.len;
	s->member = r.member;
	s->sector = r.sector;
}
