// SPDX-License-Identifier: GPL-2.0-only
/*
 * Watches: count the writes to a main range, so that an owner who copied it
 * slowly, with I/O going on, can prove under the fence that its copy still holds.
 *
 * A watch is armed when every write that may not have seen it has left the
 * members (a drain, as for a fence); from then on no write is missed. A write
 * counts when it goes and when it comes back: one that was under way when the
 * owner first looked may land on what was copied since. Watches are part of the
 * gate, so I/O on a device without one pays nothing.
 */
#include <linux/slab.h>

#include "remap.h"

/* rd->lock held */
static struct remap_watch *watch_find(struct remap_device *rd, u64 id)
{
	struct remap_watch *w;

	list_for_each_entry(w, &rd->watches, list)
		if (w->id == id)
			return w;
	return NULL;
}

/* rd->lock held */
static void watch_end(struct remap_device *rd, struct remap_watch *w)
{
	list_del_rcu(&w->list);
	rd->nr_watches--;
	remap_gate_update(rd);
	kfree_rcu(w, rcu);
}

int remap_watch_add(struct remap_target *rt, u64 start, u64 len, u32 ms, u32 *id)
{
	struct remap_device *rd = rt->rd;
	struct remap_watch *w;
	int r = 0;

	if (!len || len > rt->limits.main_len ||
	    start > rt->limits.main_len - len)
		return -ERANGE;
	w = kzalloc(sizeof(*w), GFP_KERNEL);
	if (!w)
		return -ENOMEM;
	w->start = start;
	w->end = start + len;

	spin_lock_irq(&rd->lock);
	if (rd->nr_watches < REMAP_MAX_WATCHES) {
		do {
			w->id = ++rd->last_watch;
		} while (!w->id || watch_find(rd, w->id));
		*id = w->id;
		w->until = jiffies + msecs_to_jiffies(ms);
		list_add_tail_rcu(&w->list, &rd->watches);
		rd->nr_watches++;
		remap_gate_update(rd);
	} else {
		r = -EBUSY;
	}
	spin_unlock_irq(&rd->lock);
	if (r) {
		kfree(w);
		return r;
	}
	queue_work(remap_drain_wq, &rd->drain);
	remap_bounds_arm(rd);
	return 0;
}

int remap_watch_end(struct remap_device *rd, u64 id)
{
	struct remap_watch *w;

	spin_lock_irq(&rd->lock);
	w = watch_find(rd, id);
	if (w)
		watch_end(rd, w);
	spin_unlock_irq(&rd->lock);
	return w ? 0 : -ENOENT;
}

/* A write goes to a member, or has come back. Any context. */
void remap_watch_count(struct remap_device *rd, u64 sector, u32 len)
{
	struct remap_watch *w;

	rcu_read_lock();
	list_for_each_entry_rcu(w, &rd->watches, list)
		if (sector < w->end && w->start < sector + len)
			atomic64_inc(&w->writes);
	rcu_read_unlock();
}

/* rd->lock held. What waits for the round of the drain that starts now. */
bool remap_watch_round_begin(struct remap_device *rd)
{
	struct remap_watch *w;
	bool any = false;

	list_for_each_entry(w, &rd->watches, list) {
		w->this_round = !w->armed;
		any |= w->this_round;
	}
	return any;
}

/* rd->lock held */
void remap_watch_round_end(struct remap_device *rd)
{
	struct remap_watch *w;

	list_for_each_entry(w, &rd->watches, list)
		w->armed |= w->this_round;
}

/* rd->lock held. A watch that reaches its bound goes; nobody has to be told. */
void remap_watch_bounds(struct remap_device *rd, unsigned long *next)
{
	struct remap_watch *w, *tmp;

	list_for_each_entry_safe(w, tmp, &rd->watches, list) {
		if (time_after_eq(jiffies, w->until))
			watch_end(rd, w);
		else if (time_before(w->until, *next))
			*next = w->until;
	}
}

void remap_reply_watches(struct remap_device *rd, char *result, unsigned int maxlen)
{
	struct remap_watch *w;
	unsigned int sz = 0;

	spin_lock_irq(&rd->lock);
	list_for_each_entry(w, &rd->watches, list) {
		unsigned long now = jiffies;
		unsigned int left = time_before(now, w->until) ?
			jiffies_to_msecs(w->until - now) : 0;

		DMEMIT("watch %u %llu %llu %s %lld %u\n", w->id, w->start,
		       w->end - w->start, w->armed ? "armed" : "draining",
		       (long long)atomic64_read(&w->writes), left);
	}
	spin_unlock_irq(&rd->lock);
	DMEMIT("end\n");
}

/* Nobody else uses the device any more. */
void remap_watch_free_all(struct remap_device *rd)
{
	struct remap_watch *w, *tmp;

	list_for_each_entry_safe(w, tmp, &rd->watches, list) {
		list_del(&w->list);
		kfree(w);
	}
}
