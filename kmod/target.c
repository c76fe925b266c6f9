// SPDX-License-Identifier: GPL-2.0-only
/*
 * dm-remap-v4: main sectors that went bad live on a spare.
 * See dm-remap.rst for the interface, remap.h for the parts.
 */
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/suspend.h>

#define DM_MSG_PREFIX "remap-v4"

#include "remap.h"

bool remap_debug;
module_param_named(debug, remap_debug, bool, 0644);
MODULE_PARM_DESC(debug, "Log each failed write or read that is narrowed");

unsigned int remap_initial_buckets = REMAP_MIN_BUCKETS;

static int set_initial_buckets(const char *text, const struct kernel_param *kp)
{
	unsigned int n;
	int r = kstrtouint(text, 10, &n);

	if (r)
		return r;
	if (!is_power_of_2(n) || n < REMAP_MIN_BUCKETS || n > REMAP_MAX_BUCKETS)
		return -EINVAL;
	*(unsigned int *)kp->arg = n;
	return 0;
}

static const struct kernel_param_ops initial_buckets_ops = {
	.set = set_initial_buckets,
	.get = param_get_uint,
};
module_param_cb(initial_hash_size, &initial_buckets_ops, &remap_initial_buckets, 0644);
__MODULE_PARM_TYPE(initial_hash_size, "int");
MODULE_PARM_DESC(initial_hash_size,
		 "Buckets of a new device's hash table (a power of 2, at least 64)");

/*
 * A drain waits for members, for as long as they take. When memory is short a
 * queue has one worker, and the bounds of all devices may not wait behind it.
 */
struct workqueue_struct *remap_ctl_wq, *remap_drain_wq;

/* Off the fast path: wait at the gate, or go straight to a worker. */
static int defer(struct remap_io *io, struct bio *bio, enum route v)
{
	enum hold r = HOLD_AGAIN;

	/* Completion looks at the device even if the bio never got to one. */
	bio_set_dev(bio, io->rt->main->bdev);
	io->iter = bio->bi_iter;
	remap_slow_prepare(io);
	if (v == ROUTE_WAIT)
		r = remap_wait(io, io->iter.bi_sector, iter_len(&io->iter));
	if (r == HOLD_REQUEUE)
		return DM_MAPIO_REQUEUE;
	if (r == HOLD_AGAIN)
		remap_slow_start(io);
	return DM_MAPIO_SUBMITTED;
}

static int remap_map(struct dm_target *ti, struct bio *bio)
{
	struct remap_target *rt = ti->private;
	struct remap_device *rd = rt->rd;
	struct remap_io *io = dm_per_bio_data(bio, sizeof(*io));
	struct remap_route r;
	enum route v;

	io->rt = rt;
	io->state = IO_DONE;
	if (unlikely(op_is_flush(bio->bi_opf))) {
		if (remap_flush_latched(rd))
			return DM_MAPIO_KILL;
		if (bio->bi_opf & REQ_PREFLUSH)
			return remap_flush_map(io, bio);
	}

	if (bio_op(bio) == REQ_OP_READ)
		this_cpu_inc(rd->pcpu->reads);
	else
		this_cpu_inc(rd->pcpu->writes);
	bio->bi_iter.bi_sector = dm_target_offset(ti, bio->bi_iter.bi_sector);
	v = remap_route(rt, bio->bi_iter.bi_sector, bio_sectors(bio),
			op_is_write(bio_op(bio)), &r);
	if (r.len < bio_sectors(bio))
		dm_accept_partial_bio(bio, r.len);
	if (v == ROUTE_FAIL)
		return DM_MAPIO_KILL;
	if (v == ROUTE_WAIT)
		return defer(io, bio, v);
	if (r.member && (bio_op(bio) == REQ_OP_SECURE_ERASE ||
			 (r.marked && bio_op(bio) == REQ_OP_READ))) {
		remap_route_done(rd, r.epoch);
		return defer(io, bio, v);
	}

	io->state = IO_DIRECT;
	io->iter = bio->bi_iter;
	io->epoch = r.epoch;
	io->member = r.member;
	io->sector = r.sector;
	bio_set_dev(bio, r.bdev);
	bio->bi_iter.bi_sector = r.sector;
	return DM_MAPIO_REMAPPED;
}

/* Answers that say nothing about the member. */
static bool expected(struct bio *bio, blk_status_t status)
{
	return status == BLK_STS_NOTSUPP ||
	       (status == BLK_STS_AGAIN && bio->bi_opf & REQ_NOWAIT);
}

static int direct_failed(struct remap_io *io, struct bio *bio, blk_status_t status)
{
	struct remap_device *rd = io->rt->rd;

	remap_slow_prepare(io);
	if (remap_may_hold(io, io->member, status) && remap_narrow(io, status)) {
		remap_route_done(rd, io->epoch);
		remap_slow_start(io);
		return DM_ENDIO_INCOMPLETE;
	}
	if (!expected(bio, status))
		remap_record(rd, KIND_FAILED, bio, io->member,
			     io->iter.bi_sector, io->sector,
			     iter_len(&io->iter), status);
	remap_route_done(rd, io->epoch);
	return DM_ENDIO_DONE;
}

/*
 * Dirty before the write is acknowledged, so that a flush that comes after the
 * acknowledgement finds it. One that failed may have left a part in the cache.
 */
static void mark_dirty(struct remap_io *io, struct bio *bio)
{
	struct remap_device *rd = io->rt->rd;

	if (io->member && op_is_write(bio_op(bio)) &&
	    !test_bit(io->member - 1, &rd->dirty))
		set_bit(io->member - 1, &rd->dirty);
}

static void direct_done(struct remap_io *io)
{
	struct remap_device *rd = io->rt->rd;

	remap_succeeded(rd);
	remap_route_done(rd, io->epoch);
}

/* May run in interrupt context. */
static int remap_end_io(struct dm_target *ti, struct bio *bio, blk_status_t *error)
{
	struct remap_io *io = dm_per_bio_data(bio, sizeof(*io));

	switch (io->state) {
	case IO_DIRECT:
		mark_dirty(io, bio);
		if (op_is_write(bio_op(bio)))
			remap_watch_returned(io->rt->rd, io->iter.bi_sector,
					     iter_len(&io->iter));
		if (unlikely(*error))
			return direct_failed(io, bio, *error);
		direct_done(io);
		break;
	case IO_FLUSH:
		return remap_flush_done(io, bio, error);
	case IO_DONE:
		break;
	}
	return DM_ENDIO_DONE;
}

static void remap_presuspend(struct dm_target *ti)
{
	remap_hold_suspend(ti->private, dm_noflush_suspending(ti));
}

static void allow_holds(struct remap_device *rd)
{
	spin_lock_irq(&rd->lock);
	WRITE_ONCE(rd->no_new_holds, false);
	spin_unlock_irq(&rd->lock);
}

static void remap_presuspend_undo(struct dm_target *ti)
{
	struct remap_target *rt = ti->private;

	allow_holds(rt->rd);
}

static int remap_preresume(struct dm_target *ti)
{
	struct remap_target *rt = ti->private;
	int r = remap_device_compatible(rt);

	if (r) {
		DMERR("%s", ti->error);
		return r;
	}
	mutex_lock(&rt->rd->live_lock);
	rt->rd->live_ti = ti;
	mutex_unlock(&rt->rd->live_lock);
	return 0;
}

static void remap_resume(struct dm_target *ti)
{
	struct remap_target *rt = ti->private;

	allow_holds(rt->rd);
	remap_bounds_arm(rt->rd);
}

static int remap_iterate(struct dm_target *ti, iterate_devices_callout_fn fn,
			 void *data)
{
	struct remap_target *rt = ti->private;
	unsigned int i;
	int r = fn(ti, rt->main, 0, ti->len, data);

	for (i = 0; i < rt->limits.spares && !r; i++)
		r = fn(ti, rt->spare[i], 0, rt->limits.spare_len[i], data);
	return r;
}

static void remap_status(struct dm_target *ti, status_type_t type,
			 unsigned int flags, char *result, unsigned int maxlen)
{
	struct remap_target *rt = ti->private;
	unsigned int sz = 0;

	switch (type) {
	case STATUSTYPE_INFO:
		remap_status_line(rt, result, maxlen);
		break;
	case STATUSTYPE_TABLE:
		DMEMIT("%s %s", rt->main->name, rt->spare[0]->name);
		if (rt->options)
			DMEMIT(" %s", rt->options);
		break;
	case STATUSTYPE_IMA:
		DMEMIT_TARGET_NAME_VERSION(ti->type);
		DMEMIT(",main=%s,spare=%s;", rt->main->name, rt->spare[0]->name);
		break;
	}
}

static void remap_dtr(struct dm_target *ti)
{
	struct remap_target *rt = ti->private;

	remap_device_leave(rt);
	remap_config_free(rt);
	kfree(rt);
}

static int remap_ctr(struct dm_target *ti, unsigned int argc, char **argv)
{
	struct remap_target *rt = kzalloc(sizeof(*rt), GFP_KERNEL);
	int r;

	if (!rt) {
		ti->error = "Out of memory";
		return -ENOMEM;
	}
	rt->ti = ti;
	r = remap_config(rt, argc, argv);
	if (!r)
		r = remap_device_adopt(rt);
	if (r) {
		remap_config_free(rt);
		kfree(rt);
		return r;
	}
	ti->private = rt;
	ti->per_io_data_size = sizeof(struct remap_io);
	ti->num_flush_bios = 1 + rt->limits.spares;
	ti->num_discard_bios = 1;
	ti->num_secure_erase_bios = 1;
	ti->num_write_zeroes_bios = 1;
	/* map may complete a flush itself: the core must not look at it again. */
	ti->accounts_remapped_io = true;
	return 0;
}

static struct target_type remap_target_type = {
	.name = REMAP_TARGET_NAME,
	.version = { 4, 2, 2 },
	.features = DM_TARGET_NOWAIT,
	.module = THIS_MODULE,
	.ctr = remap_ctr,
	.dtr = remap_dtr,
	.map = remap_map,
	.end_io = remap_end_io,
	.presuspend = remap_presuspend,
	.presuspend_undo = remap_presuspend_undo,
	.preresume = remap_preresume,
	.resume = remap_resume,
	.status = remap_status,
	.message = remap_message,
	.iterate_devices = remap_iterate,
};

static void free_queues(void)
{
	if (remap_drain_wq)
		destroy_workqueue(remap_drain_wq);
	if (remap_ctl_wq)
		destroy_workqueue(remap_ctl_wq);
}

static int __init remap_init(void)
{
	int r = -ENOMEM;

	remap_ctl_wq = alloc_workqueue("dm_remap_ctl", WQ_MEM_RECLAIM | WQ_UNBOUND, 0);
	remap_drain_wq = alloc_workqueue("dm_remap_drain", WQ_MEM_RECLAIM | WQ_UNBOUND, 0);
	if (!remap_ctl_wq || !remap_drain_wq)
		goto queues;
	r = remap_entries_init();
	if (r)
		goto queues;
	r = remap_sysfs_init();
	if (r)
		goto entries;
	r = dm_register_target(&remap_target_type);
	if (r)
		goto sysfs;
	register_pm_notifier(&remap_pm);
	return 0;

sysfs:
	remap_sysfs_exit();
entries:
	remap_entries_exit();
queues:
	free_queues();
	return r;
}

static void __exit remap_exit(void)
{
	unregister_pm_notifier(&remap_pm);
	dm_unregister_target(&remap_target_type);
	remap_periodic_stop();
	remap_sysfs_exit();
	free_queues();
	remap_entries_exit();
}

module_init(remap_init);
module_exit(remap_exit);

MODULE_DESCRIPTION("device-mapper target that remaps bad sectors to a spare");
MODULE_AUTHOR("remap-guardian");
MODULE_LICENSE("GPL");
MODULE_ALIAS("dm-" REMAP_TARGET_NAME);
