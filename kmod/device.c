// SPDX-License-Identifier: GPL-2.0-only
/*
 * The state that belongs to the mapped device: found by it, adopted by each new
 * table, gone with the last one.
 */
#include <linux/random.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/suspend.h>

#include "remap.h"

static LIST_HEAD(remap_devices);
static DEFINE_MUTEX(remap_devices_lock);

/* The system goes to sleep: nothing new is held. */
bool remap_freezing;

/* Tell device-mapper's listeners; any context, since the work takes mutexes. */
void remap_event(struct remap_device *rd)
{
	queue_work(remap_ctl_wq, &rd->event);
}

static void event_work(struct work_struct *work)
{
	struct remap_device *rd = container_of(work, struct remap_device, event);

	mutex_lock(&rd->live_lock);
	if (rd->live_ti)
		dm_table_event(rd->live_ti->table);
	mutex_unlock(&rd->live_lock);
}

/* Look at all bounds now, and then again at the next one. */
void remap_bounds_arm(struct remap_device *rd)
{
	mod_delayed_work(remap_ctl_wq, &rd->bounds, 0);
}

static bool closed_bound(struct remap_device *rd, unsigned long *next)
{
	if (rd->state != STATE_CLOSED)
		return false;
	if (time_before(jiffies, rd->closed_until)) {
		if (time_before(rd->closed_until, *next))
			*next = rd->closed_until;
		return false;
	}
	WRITE_ONCE(rd->state, STATE_EXPIRED);
	remap_kick(rd);
	return true;
}

static void bounds_work(struct work_struct *work)
{
	struct remap_device *rd = container_of(to_delayed_work(work),
					       struct remap_device, bounds);
	unsigned long never = jiffies + MAX_JIFFY_OFFSET / 2, next = never;
	bool acted;

	spin_lock_irq(&rd->lock);
	acted = closed_bound(rd, &next);
	acted |= remap_fence_bounds(rd, &next);
	acted |= remap_hold_bounds(rd, &next);
	remap_watch_bounds(rd, &next);
	spin_unlock_irq(&rd->lock);
	remap_flush_bounds(rd, &next);

	if (acted)
		remap_event(rd);
	if (next != never) {
		unsigned long now = jiffies;

		/* Not mod_: somebody who armed us meanwhile wants it sooner. */
		queue_delayed_work(remap_ctl_wq, &rd->bounds,
				   time_after(next, now) ? next - now : 0);
	}
}

static void device_free(struct remap_device *rd)
{
	if (rd->slow_wq)
		destroy_workqueue(rd->slow_wq);
	cancel_work_sync(&rd->drain);
	cancel_delayed_work_sync(&rd->bounds);
	cancel_work_sync(&rd->event);
	remap_fence_free_all(rd);
	remap_watch_free_all(rd);
	mempool_exit(&rd->bounce);
	mempool_exit(&rd->pieces);
	bioset_exit(&rd->bios);
	kvfree(rd->ring.r);
	free_percpu(rd->pcpu);
	remap_table_free(&rd->table);
	mutex_destroy(&rd->ctl);
	mutex_destroy(&rd->live_lock);
	kfree_sensitive(rd);
}

static int device_pools(struct remap_device *rd)
{
	int r = bioset_init(&rd->bios, REMAP_SLOW_ACTIVE, 0,
			    BIOSET_NEED_BVECS);

	if (!r)
		r = mempool_init_kmalloc_pool(&rd->pieces, REMAP_SLOW_ACTIVE,
					      sizeof(struct remap_piece));
	/* One buffer is enough to get on: each worker wants only one at a time. */
	if (!r && rd->managed)
		r = mempool_init_page_pool(&rd->bounce, 1, REMAP_BOUNCE_ORDER);
	return r;
}

static struct remap_device *device_new(struct remap_target *rt,
				       struct mapped_device *md)
{
	struct remap_device *rd = kzalloc(sizeof(*rd), GFP_KERNEL);

	if (!rd)
		return NULL;
	rd->md = md;
	rd->managed = rt->managed;
	rd->instance = get_random_u64();
	INIT_LIST_HEAD(&rd->targets);
	INIT_LIST_HEAD(&rd->fences);
	INIT_LIST_HEAD(&rd->watches);
	INIT_LIST_HEAD(&rd->waiting);
	INIT_LIST_HEAD(&rd->held);
	INIT_LIST_HEAD(&rd->after_own);
	mutex_init(&rd->ctl);
	mutex_init(&rd->live_lock);
	spin_lock_init(&rd->lock);
	spin_lock_init(&rd->flush_lock);
	/* Who knows what was written, through an earlier device of the same members. */
	rd->dirty = ~0UL;
	INIT_WORK(&rd->drain, remap_drain_work);
	INIT_WORK(&rd->event, event_work);
	INIT_DELAYED_WORK(&rd->bounds, bounds_work);

	rd->pcpu = alloc_percpu(struct remap_percpu);
	rd->slow_wq = alloc_workqueue("dm_remap_slow", WQ_MEM_RECLAIM | WQ_UNBOUND,
				      REMAP_SLOW_ACTIVE);
	if (!rd->pcpu || !rd->slow_wq || device_pools(rd) ||
	    remap_ring_init(&rd->ring) ||
	    remap_table_init(&rd->table, READ_ONCE(remap_initial_buckets))) {
		device_free(rd);
		return NULL;
	}
	if (rt->closed_ms) {
		rd->state = STATE_CLOSED;
		rd->gated = true;
		rd->closed_until = jiffies + msecs_to_jiffies(rt->closed_ms);
		remap_bounds_arm(rd);
	}
	return rd;
}

/* Whether there are any. May sleep. */
bool remap_each_device(void (*fn)(struct remap_device *rd))
{
	struct remap_device *rd;
	bool any;

	mutex_lock(&remap_devices_lock);
	list_for_each_entry(rd, &remap_devices, list)
		fn(rd);
	any = !list_empty(&remap_devices);
	mutex_unlock(&remap_devices_lock);
	return any;
}

/* Free what the device can do without. */
void remap_collect(struct remap_device *rd)
{
	mutex_lock(&rd->ctl);
	remap_table_collect(&rd->table);
	mutex_unlock(&rd->ctl);
}

static struct remap_device *device_find(struct mapped_device *md)
{
	struct remap_device *rd;

	list_for_each_entry(rd, &remap_devices, list)
		if (rd->md == md)
			return rd;
	return NULL;
}

/* The same main, and the same spares as far as both have them. */
static bool fitting_members(const struct remap_target *a, const struct remap_target *b)
{
	unsigned int i, both = min(a->limits.spares, b->limits.spares);

	if (a->main->bdev->bd_dev != b->main->bdev->bd_dev)
		return false;
	for (i = 0; i < both; i++)
		if (a->spare[i]->bdev->bd_dev != b->spare[i]->bdev->bd_dev ||
		    a->limits.spare_len[i] != b->limits.spare_len[i])
			return false;
	return true;
}

/*
 * Whatever @old may map fits @new, too, on the spares that both have. A spare that
 * joins may need less reserved than the others do.
 */
static bool fitting_shape(const struct remap_target *old, const struct remap_target *new)
{
	return old->ti->begin == new->ti->begin && old->ti->len == new->ti->len &&
	       old->limits.head >= new->limits.head &&
	       old->limits.tail >= new->limits.tail &&
	       old->limits.align == new->limits.align && fitting_members(old, new);
}

static bool same_shape(const struct remap_target *a, const struct remap_target *b)
{
	return a->limits.spares == b->limits.spares && fitting_shape(a, b) &&
	       fitting_shape(b, a);
}

/* Would this table orphan a remap, or change hands behind the owner's back? */
static int may_join(struct remap_device *rd, struct remap_target *rt)
{
	bool bound = rd->managed || rd->table.count;
	struct remap_target *o;

	lockdep_assert_held(&rd->ctl);
	if (rd->managed != rt->managed) {
		rt->ti->error = "A reload cannot change managed";
		return -EBUSY;
	}
	/* No remap on a spare that it has not, whatever became of the tables before it. */
	if (rd->table.used >> rt->limits.spares) {
		rt->ti->error = "Table would orphan remaps";
		return -EBUSY;
	}
	list_for_each_entry(o, &rd->targets, list) {
		if (o == rt)
			continue;
		if (o->ti->table == rt->ti->table) {
			rt->ti->error = "Only one dm-remap-v4 target in a table";
			return -EINVAL;
		}
		if (bound && !fitting_shape(o, rt)) {
			rt->ti->error = "Table would orphan remaps";
			return -EBUSY;
		}
	}
	return 0;
}

/* ctl held: is a table of another shape loaded beside this one? */
bool remap_device_contested(struct remap_target *rt)
{
	struct remap_target *o;

	lockdep_assert_held(&rt->rd->ctl);
	list_for_each_entry(o, &rt->rd->targets, list)
		if (o != rt && !same_shape(o, rt))
			return true;
	return false;
}

/*
 * Asked once more before a table goes live. One that is live stays so, whatever is
 * loaded beside it.
 */
int remap_device_compatible(struct remap_target *rt)
{
	int r = 0;

	mutex_lock(&rt->rd->ctl);
	if (READ_ONCE(rt->rd->live_ti) != rt->ti)
		r = may_join(rt->rd, rt);
	mutex_unlock(&rt->rd->ctl);
	return r;
}

int remap_device_adopt(struct remap_target *rt)
{
	struct mapped_device *md = dm_table_get_md(rt->ti->table);
	struct remap_device *rd;
	bool is_new;
	/* Who waits for the lock may be needed to let a suspended device go on. */
	unsigned int noio = memalloc_noio_save();
	int r = 0;

	mutex_lock(&remap_devices_lock);
	rd = device_find(md);
	is_new = !rd;
	if (is_new) {
		rd = device_new(rt, md);
		if (rd && remap_folder_add(rd)) {
			device_free(rd);
			rd = NULL;
		}
		if (!rd) {
			rt->ti->error = "Out of memory";
			r = -ENOMEM;
			goto out;
		}
		remap_sample(rd);
		list_add(&rd->list, &remap_devices);
		remap_periodic_start();
	}
	mutex_lock(&rd->ctl);
	if (!is_new)
		r = may_join(rd, rt);
	if (!r) {
		rt->rd = rd;
		list_add(&rt->list, &rd->targets);
	}
	mutex_unlock(&rd->ctl);
out:
	mutex_unlock(&remap_devices_lock);
	memalloc_noio_restore(noio);
	return r;
}

void remap_device_leave(struct remap_target *rt)
{
	struct remap_device *rd = rt->rd;
	bool last;

	if (!rd)
		return;
	mutex_lock(&rd->live_lock);
	if (rd->live_ti == rt->ti)
		rd->live_ti = NULL;
	mutex_unlock(&rd->live_lock);
	remap_abandon(rt);

	mutex_lock(&remap_devices_lock);
	mutex_lock(&rd->ctl);
	list_del(&rt->list);
	last = list_empty(&rd->targets);
	mutex_unlock(&rd->ctl);
	if (last) {
		list_del(&rd->list);
		remap_folder_remove(rd);
	}
	mutex_unlock(&remap_devices_lock);
	if (last)
		device_free(rd);
}

/*
 * Before a freeze what is held gets its error: the owner is frozen too, and a
 * task that waits for a held write would keep the system awake. So would a flush
 * that waits for one of the owner's: those come to their end before.
 */
static int pm_event(struct notifier_block *nb, unsigned long what, void *data)
{
	struct remap_device *rd;

	switch (what) {
	case PM_HIBERNATION_PREPARE:
	case PM_SUSPEND_PREPARE:
		WRITE_ONCE(remap_freezing, true);
		mutex_lock(&remap_devices_lock);
		list_for_each_entry(rd, &remap_devices, list)
			remap_decide(rd, 0, U64_MAX, V_RELEASED, false);
		list_for_each_entry(rd, &remap_devices, list)
			if (!remap_own_flushes_ended(rd))
				pr_warn(REMAP_LOG "A flush of the daemon does not end\n");
		mutex_unlock(&remap_devices_lock);
		break;
	case PM_POST_HIBERNATION:
	case PM_POST_SUSPEND:
		WRITE_ONCE(remap_freezing, false);
		break;
	}
	return NOTIFY_DONE;
}

struct notifier_block remap_pm = { .notifier_call = pm_event };
