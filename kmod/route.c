// SPDX-License-Identifier: GPL-2.0-only
/* Where a range goes: the part of the target that every I/O passes. */
#include <linux/ktime.h>

#include "remap.h"

/*
 * Must the range wait or fail? Called under RCU or rd->lock. On return @len is
 * how far the answer reaches: to the end of the fence that covers @sector, or
 * to the start of the first one behind it.
 */
enum route remap_gate(struct remap_target *rt, u64 sector, u32 *len)
{
	struct remap_device *rd = rt->rd;
	struct remap_fence *f;
	u64 end = sector + *len;

	if (READ_ONCE(rt->dead))
		return ROUTE_FAIL;
	switch (READ_ONCE(rd->state)) {
	case STATE_CLOSED:
		return ROUTE_WAIT;
	case STATE_EXPIRED:
		return ROUTE_FAIL;
	case STATE_ACTIVE:
		break;
	}
	list_for_each_entry_rcu(f, &rd->fences, list, lockdep_is_held(&rd->lock)) {
		if (f->end <= sector || f->start >= end)
			continue;
		if (f->start > sector) {
			end = f->start;
			continue;
		}
		*len = min(end, f->end) - sector;
		return READ_ONCE(f->state) == FENCE_FAILED ? ROUTE_FAIL : ROUTE_WAIT;
	}
	*len = end - sector;
	return ROUTE_GO;
}

/*
 * One lookup in REMAP_TIME_ONE_IN on each CPU is timed, chosen by what is counted
 * anyway: the others get by without a clock.
 */
static u64 lookup_starts(struct remap_device *rd)
{
	u64 n = this_cpu_read(rd->pcpu->hits) + this_cpu_read(rd->pcpu->misses);

	return unlikely(n % REMAP_TIME_ONE_IN == 0) ? ktime_get_ns() : 0;
}

static void lookup_ends(struct remap_device *rd, u64 start)
{
	if (likely(!start))
		return;
	this_cpu_add(rd->pcpu->timed_ns, ktime_get_ns() - start);
	this_cpu_inc(rd->pcpu->timed);
}

/*
 * On ROUTE_GO the range is counted in an epoch until remap_route_done().
 *
 * Order matters twice. The counter goes up before the gate is looked at, all
 * under RCU, so that a drain that published its fence first and then waited for
 * a grace period either sees the count or knows that we saw the fence. And the
 * gate is looked at before the table, so that whoever no longer sees a fence
 * sees the table that was published before the fence ended.
 */
enum route remap_route(struct remap_target *rt, u64 sector, u32 len,
		       bool write, struct remap_route *r)
{
	struct remap_device *rd = rt->rd;
	const struct remap_entry *e;
	bool watched = false;
	u64 next, start;

	rcu_read_lock();
	r->epoch = smp_load_acquire(&rd->epoch);
	this_cpu_inc(rd->pcpu->inflight[r->epoch]);
	if (unlikely(smp_load_acquire(&rd->gated))) {
		enum route v = remap_gate(rt, sector, &len);

		if (v != ROUTE_GO) {
			remap_route_done(rd, r->epoch);
			rcu_read_unlock();
			r->len = len;
			return v;
		}
		smp_rmb();
		watched = write;
	}

	start = lookup_starts(rd);
	e = remap_table_find(&rd->table, sector, len, &next);
	lookup_ends(rd, start);
	if (e) {
		r->member = e->index + 1;
		r->sector = e->spare + (sector - e->main);
		r->marked = e->flags & REMAP_MARKED;
		this_cpu_inc(rd->pcpu->hits);
	} else {
		r->member = 0;
		r->sector = sector;
		r->marked = false;
		this_cpu_inc(rd->pcpu->misses);
	}
	if (unlikely(watched))
		remap_watch_count(rd, sector, next - sector);
	rcu_read_unlock();
	r->bdev = remap_member(rt, r->member);
	r->len = next - sector;
	return ROUTE_GO;
}
