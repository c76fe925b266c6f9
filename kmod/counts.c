// SPDX-License-Identifier: GPL-2.0-only
/* What a device has counted, and how well it is. */
#include <linux/ktime.h>

#include "remap.h"

void remap_sum_counts(struct remap_device *rd, struct remap_counts *c)
{
	int cpu;

	memset(c, 0, sizeof(*c));
	for_each_possible_cpu(cpu) {
		const struct remap_percpu *p = per_cpu_ptr(rd->pcpu, cpu);

		c->reads += p->reads;
		c->writes += p->writes;
		c->hits += p->hits;
		c->misses += p->misses;
		c->timed += p->timed;
		c->timed_ns += p->timed_ns;
	}
	c->errors = atomic64_read(&rd->errors);
}

/*
 * Summed under the lock: then a later sum is never the smaller one, although
 * the counters go on meanwhile.
 */
static u64 ios(struct remap_device *rd)
{
	struct remap_counts c;

	lockdep_assert_held(&rd->ring.lock);
	remap_sum_counts(rd, &c);
	return c.reads + c.writes;
}

void remap_sample(struct remap_device *rd)
{
	spin_lock_irq(&rd->ring.lock);
	remap_health_sample(&rd->health, ktime_get_ns(), ios(rd));
	spin_unlock_irq(&rd->ring.lock);
}

void remap_health_now(struct remap_device *rd, struct remap_report *r)
{
	spin_lock_irq(&rd->ring.lock);
	remap_health_report(&rd->health, ktime_get_ns(), ios(rd), r);
	spin_unlock_irq(&rd->ring.lock);
}
