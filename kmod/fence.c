// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fences: keep I/O out of a main range while the daemon moves it.
 *
 *   draining --> drained --> sealed --> failed
 *      |            |          |          |
 *      +------------+----------+----------+--> gone (unfence, or a remap)
 *
 * An unsealed fence that reaches its bound just goes. A sealed one may not: the
 * daemon may have committed already, and I/O let through would reach stale
 * sectors. So it fails I/O until somebody who knows the outcome says so.
 */
#include <linux/sched.h>
#include <linux/slab.h>

#include "remap.h"

/* rd->lock held. What was published before must be seen by whoever passes. */
void remap_gate_update(struct remap_device *rd)
{
	smp_store_release(&rd->gated,
			  rd->state != STATE_ACTIVE || rd->nr_fences ||
			  rd->nr_watches);
}

/* ctl or rd->lock held */
struct remap_fence *remap_fence_find(struct remap_device *rd, u64 id)
{
	struct remap_fence *f;

	list_for_each_entry(f, &rd->fences, list)
		if (f->id == id)
			return f;
	return NULL;
}

/* rd->lock held */
static void fence_end(struct remap_device *rd, struct remap_fence *f)
{
	smp_wmb();	/* the table first: pairs with smp_rmb() in remap_route() */
	list_del_rcu(&f->list);
	rd->nr_fences--;
	remap_gate_update(rd);
	remap_changed(rd);
	remap_decide_locked(rd, f->start, f->end, V_REDRIVE);
	remap_kick(rd);
	kfree_rcu(f, rcu);
}

/* rd->lock held. Waiting I/O and held pieces find the fence failed, and fail. */
static void fence_fail(struct remap_device *rd, struct remap_fence *f)
{
	WRITE_ONCE(f->state, FENCE_FAILED);
	remap_changed(rd);
	remap_decide_locked(rd, f->start, f->end, V_REDRIVE);
	remap_kick(rd);
}

int remap_fence_add(struct remap_target *rt, u64 start, u64 len, u32 ms, u32 *id)
{
	struct remap_device *rd = rt->rd;
	struct remap_fence *f, *o;
	int r = -EBUSY;

	if (!len || len > rt->limits.main_len ||
	    start > rt->limits.main_len - len)
		return -ERANGE;
	/* I/O is cut at a fence's ends: half a block could not be written. */
	if ((start | len) & (rt->limits.align - 1))
		return -EINVAL;
	f = kzalloc(sizeof(*f), GFP_KERNEL);
	if (!f)
		return -ENOMEM;
	f->start = start;
	f->end = start + len;
	f->ms = ms;
	f->state = FENCE_DRAINING;

	spin_lock_irq(&rd->lock);
	if (rd->nr_fences >= REMAP_MAX_FENCES)
		goto busy;
	list_for_each_entry(o, &rd->fences, list)
		if (o->start < f->end && f->start < o->end)
			goto busy;
	do {
		f->id = ++rd->last_fence;
	} while (!f->id || remap_fence_find(rd, f->id));
	*id = f->id;
	f->until = jiffies + msecs_to_jiffies(ms);
	list_add_tail_rcu(&f->list, &rd->fences);
	rd->nr_fences++;
	remap_gate_update(rd);
	spin_unlock_irq(&rd->lock);

	queue_work(remap_drain_wq, &rd->drain);
	remap_bounds_arm(rd);
	return 0;
busy:
	spin_unlock_irq(&rd->lock);
	kfree(f);
	return r;
}

int remap_fence_seal(struct remap_device *rd, u64 id)
{
	struct remap_fence *f;
	int r = 0;

	spin_lock_irq(&rd->lock);
	f = remap_fence_find(rd, id);
	if (!f) {
		r = -ENOENT;
	} else if (f->state == FENCE_DRAINING) {
		r = -EAGAIN;
	} else if (f->state == FENCE_FAILED ||
		   (f->state == FENCE_DRAINED && time_after_eq(jiffies, f->until))) {
		r = -ETIME;
	} else if (f->state == FENCE_DRAINED) {
		WRITE_ONCE(f->state, FENCE_SEALED);
		f->until = jiffies + msecs_to_jiffies(f->ms);
	}
	spin_unlock_irq(&rd->lock);
	if (!r)
		remap_bounds_arm(rd);
	return r;
}

int remap_fence_end(struct remap_device *rd, u64 id)
{
	struct remap_fence *f;

	spin_lock_irq(&rd->lock);
	f = remap_fence_find(rd, id);
	if (f)
		fence_end(rd, f);
	spin_unlock_irq(&rd->lock);
	return f ? 0 : -ENOENT;
}

/* May the mapping of this range change under fence @id? */
int remap_fence_allows(struct remap_device *rd, u64 id, u64 start, u64 len)
{
	struct remap_fence *f;
	int r = 0;

	spin_lock_irq(&rd->lock);
	f = remap_fence_find(rd, id);
	if (!f)
		r = -ENOENT;
	else if (f->state != FENCE_SEALED && f->state != FENCE_FAILED)
		r = -EAGAIN;
	else if (start < f->start || start + len > f->end)
		r = -ERANGE;
	spin_unlock_irq(&rd->lock);
	return r;
}

/* rd->lock held. Act on the bounds that have passed; true if one did. */
bool remap_fence_bounds(struct remap_device *rd, unsigned long *next)
{
	struct remap_fence *f, *tmp;
	bool acted = false;

	list_for_each_entry_safe(f, tmp, &rd->fences, list) {
		if (f->state == FENCE_FAILED)
			continue;
		if (time_before(jiffies, f->until)) {
			if (time_before(f->until, *next))
				*next = f->until;
			continue;
		}
		if (f->state == FENCE_SEALED)
			fence_fail(rd, f);
		else
			fence_end(rd, f);
		acted = true;
	}
	return acted;
}

/* rd->lock held. Does anything wait for the round that starts now? */
static bool round_begin(struct remap_device *rd)
{
	struct remap_fence *f;
	bool any = remap_watch_round_begin(rd);

	list_for_each_entry(f, &rd->fences, list) {
		f->this_round = f->state == FENCE_DRAINING;
		any |= f->this_round;
	}
	return any;
}

/* rd->lock held */
static void round_end(struct remap_device *rd)
{
	struct remap_fence *f;

	remap_watch_round_end(rd);
	list_for_each_entry(f, &rd->fences, list)
		if (f->this_round && f->state == FENCE_DRAINING)
			WRITE_ONCE(f->state, FENCE_DRAINED);
}

static unsigned long inflight(struct remap_device *rd, unsigned int epoch)
{
	unsigned long sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += READ_ONCE(per_cpu_ptr(rd->pcpu, cpu)->inflight[epoch]);
	return sum;
}

/*
 * A fence is drained when all I/O that may not have seen it has left the
 * members. Each round moves new I/O to the other epoch and waits out the old
 * one. After the grace period nothing adds to the old epoch any more, so each
 * CPU's counter only falls while we read one after the other, and a sum of zero
 * is a true zero. The epochs swap roles only once the old one is empty.
 */
void remap_drain_work(struct work_struct *work)
{
	struct remap_device *rd = container_of(work, struct remap_device, drain);
	unsigned int old;
	bool any;

	for (;;) {
		spin_lock_irq(&rd->lock);
		any = round_begin(rd);
		spin_unlock_irq(&rd->lock);
		if (!any)
			return;

		old = rd->epoch;
		smp_store_release(&rd->epoch, !old);
		synchronize_rcu();
		while (inflight(rd, old))
			schedule_timeout_uninterruptible(1);

		spin_lock_irq(&rd->lock);
		round_end(rd);
		spin_unlock_irq(&rd->lock);
		remap_event(rd);
	}
}

/* Nobody else uses the device any more. */
void remap_fence_free_all(struct remap_device *rd)
{
	struct remap_fence *f, *tmp;

	list_for_each_entry_safe(f, tmp, &rd->fences, list) {
		list_del(&f->list);
		kfree(f);
	}
}
