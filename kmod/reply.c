// SPDX-License-Identifier: GPL-2.0-only
/* Replies: what the reference prints, and the daemon's lists. */
#include <linux/ktime.h>
#include <linux/slab.h>

#include "remap.h"

#define TEXT_SIZE 2048
#define LINE_ROOM 128

static unsigned int help_text(struct remap_target *rt, char *result,
			      unsigned int maxlen)
{
	unsigned int sz = 0;

	DMEMIT("Available commands:\n"
	       "  help              - This message\n"
	       "  status            - Device configuration\n"
	       "  stats             - I/O statistics\n"
	       "  health            - Health metrics\n"
	       "  add_remap         - add_remap <main_sector> <spare_sector> <length>\n"
	       "  remove_remap      - remove_remap <main_sector>\n"
	       "  clear_all         - Remove all remaps (WARNING: destructive)\n"
	       "  clear_stats       - Let the statistics start at zero\n"
	       "  errors            - errors <since>\n"
	       "  fences            - Fences in force\n"
	       "  watches           - Ranges whose writes are counted\n"
	       "  dump              - dump <from_main_sector>\n");
	if (rt->managed)
		DMEMIT("  own               - own <instance> <token>\n"
		       "  as                - as <instance> <token> <message>\n"
		       "  lease             - lease <ms> [reads]\n"
		       "  secret            - secret <key>\n"
		       "  load              - load <main>:<spare>:<len>:<index>:<flags>[,...]\n"
		       "  ready             - ready <count> <checksum>\n"
		       "  fence             - fence <start> <len> <ms>\n"
		       "  seal              - seal <id>\n"
		       "  unfence           - unfence <id>\n"
		       "  watch             - watch <start> <len> <ms>\n"
		       "  unwatch           - unwatch <id>\n"
		       "  retry             - retry <start> <len>\n"
		       "  release           - release <start> <len> [reads]\n"
		       "  flush             - flush begin|done|failed <n>\n"
		       "  ack_flush         - A failed flush has been seen\n");
	return sz;
}

static unsigned int status_text(struct remap_target *rt, char *result,
				unsigned int maxlen)
{
	const struct remap_table *t = &rt->rd->table;
	u64 tenths = div_u64(10 * t->count, t->size);
	unsigned int sz = 0, i;

	DMEMIT("Device status:\n"
	       "  Main device: /dev/%pg (sectors: %llu)\n",
	       rt->main->bdev, bdev_nr_sectors(rt->main->bdev));
	for (i = 0; i < rt->limits.spares; i++)
		DMEMIT("  Spare device: /dev/%pg (sectors: %llu)\n",
		       rt->spare[i]->bdev, rt->limits.spare_len[i]);
	DMEMIT("  Remaps active: %llu\n"
	       "  Hash table size: %u\n"
	       "  Load factor: %llu.%llu\n"
	       "  Resize count: %llu\n",
	       t->count, t->size, div_u64(tenths, 10), tenths % 10, rt->rd->resizes);
	return sz;
}

/*
 * In ns, of the lookups that were timed since the last stats; if none was, of
 * all, and 0 before the first.
 */
static u64 lookup_ns(const struct remap_counts *now, const struct remap_counts *base)
{
	if (!now->timed)
		return 0;
	if (now->timed == base->timed)
		return div64_u64(now->timed_ns, now->timed);
	return div64_u64(now->timed_ns - base->timed_ns, now->timed - base->timed);
}

static unsigned int stats_text(struct remap_target *rt, char *result,
			       unsigned int maxlen, struct remap_counts *now)
{
	const struct remap_counts *base = &rt->rd->base;
	unsigned int sz = 0;
	u32 ns;
	u64 us;

	remap_sum_counts(rt->rd, now);
	us = div_u64_rem(lookup_ns(now, base), NSEC_PER_USEC, &ns);
	DMEMIT("I/O Statistics:\n"
	       "  Read operations:     %llu\n"
	       "  Write operations:    %llu\n"
	       "  Remap hits:         %llu\n"
	       "  Remap misses:       %llu\n"
	       "  I/O errors:         %llu\n"
	       "  Average lookup time: %llu.%03u μs\n",
	       now->reads - base->reads, now->writes - base->writes,
	       now->hits - base->hits, now->misses - base->misses,
	       now->errors - base->errors, us, ns);
	return sz;
}

static unsigned int health_text(struct remap_target *rt, char *result,
				unsigned int maxlen)
{
	struct remap_report r;
	unsigned int sz = 0;

	remap_health_now(rt->rd, &r);
	DMEMIT("Health Status:\n"
	       "  Health score: %u/100\n"
	       "  Error rate (last min): %u.%u%%\n"
	       "  Max consecutive errors: %u\n",
	       r.score, r.permille / 10, r.permille % 10, r.max_streak);
	if (r.erred)
		DMEMIT("  Last error: %llu seconds ago\n",
		       div_u64(r.last_ns, NSEC_PER_SEC));
	else
		DMEMIT("  Last error: never\n");
	DMEMIT("  Trend: %s\n", r.trend);
	return sz;
}

static void log_lines(char *text)
{
	const char *prefix = REMAP_LOG;
	char *line;

	while ((line = strsep(&text, "\n"))) {
		if (*line)
			pr_info("%s%s\n", prefix, line);
		prefix = "";
	}
}

/* help, status, stats, health. ctl held. */
int remap_reply_known(struct remap_target *rt, const char *what, char *result,
		      unsigned int maxlen)
{
	struct remap_counts now;
	bool stats = !strcmp(what, "stats");
	unsigned int len, sz = 0;
	char *text;

	text = kmalloc(TEXT_SIZE, GFP_KERNEL);
	if (!text)
		return -ENOMEM;
	if (stats)
		len = stats_text(rt, text, TEXT_SIZE, &now);
	else if (!strcmp(what, "help"))
		len = help_text(rt, text, TEXT_SIZE);
	else if (!strcmp(what, "status"))
		len = status_text(rt, text, TEXT_SIZE);
	else
		len = health_text(rt, text, TEXT_SIZE);

	DMEMIT(REMAP_LOG "%s", text);
	/* A reply that does not fit is asked for again: then it counts. */
	if (strlen(REMAP_LOG) + len + 1 < maxlen) {
		if (stats)
			rt->rd->base = now;
		if (!rt->managed)
			log_lines(text);
	}
	kfree(text);
	return 1;
}

/* ctl held */
void remap_clear_stats(struct remap_device *rd)
{
	remap_sum_counts(rd, &rd->base);
}

/* A page of the live table, in order of main. ctl held. */
int remap_reply_dump(struct remap_device *rd, u64 from, char *result,
		     unsigned int maxlen)
{
	struct remap_table *t = &rd->table;
	unsigned int sz = 0;
	u64 i;

	if (remap_table_sort(t))
		return -ENOMEM;
	DMEMIT("dump %llu %016llx\n", t->count, t->checksum);
	for (i = remap_table_from(t, from); i < t->count; i++) {
		const struct remap_entry *e = t->sorted[i];

		if (maxlen - sz < 2 * LINE_ROOM) {
			DMEMIT("next %llu\n", e->main);
			return 1;
		}
		DMEMIT("remap %llu %llu %u %u %u\n", e->main, e->spare, e->len,
		       e->index, e->flags);
	}
	DMEMIT("end\n");
	return 1;
}

void remap_reply_fences(struct remap_device *rd, char *result,
			unsigned int maxlen)
{
	static const char *const states[] = {
		"draining", "drained", "sealed", "failed",
	};
	struct remap_fence *f;
	unsigned int sz = 0;

	spin_lock_irq(&rd->lock);
	list_for_each_entry(f, &rd->fences, list) {
		unsigned long now = jiffies;
		unsigned int left = f->state != FENCE_FAILED &&
			time_before(now, f->until) ?
			jiffies_to_msecs(f->until - now) : 0;

		DMEMIT("fence %u %llu %llu %s %u\n", f->id, f->start,
		       f->end - f->start, states[f->state], left);
	}
	spin_unlock_irq(&rd->lock);
	DMEMIT("end\n");
}

/* What `dmsetup status` shows. */
void remap_status_line(struct remap_target *rt, char *result,
		       unsigned int maxlen)
{
	static const char *const states[] = { "ACTIVE", "CLOSED", "EXPIRED" };
	struct remap_device *rd = rt->rd;
	unsigned int sz = 0;
	u64 next;

	spin_lock_irq(&rd->ring.lock);
	next = rd->ring.next;
	spin_unlock_irq(&rd->ring.lock);
	spin_lock_irq(&rd->lock);
	DMEMIT("%llu %lld %s %u %016llx %llu %u %u", remap_active(rd),
	       (long long)atomic64_read(&rd->errors), states[rd->state],
	       REMAP_PROTOCOL, rd->instance, next, rd->held_pieces,
	       rd->nr_fences);
	spin_unlock_irq(&rd->lock);
}
