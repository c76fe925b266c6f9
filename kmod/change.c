// SPDX-License-Identifier: GPL-2.0-only
/* Messages that change the remap table, and the one that opens the device. */
#include <linux/slab.h>

#include "message.h"

/* The word "fence=<id>" */
static bool fence_word(const char *word, u64 *id, int *r)
{
	if (strncmp(word, "fence=", 6))
		return false;
	*r = remap_parse_range(word + 6, 1, U32_MAX, id);
	return true;
}

/*
 * ctl held. On a managed device the mapping of a live range changes only under
 * a sealed fence, or before anything may pass at all.
 */
static int may_change(struct remap_device *rd, u64 fence, u64 start, u64 len)
{
	if (fence)
		return remap_fence_allows(rd, fence, start, len);
	if (rd->managed && READ_ONCE(rd->state) == STATE_ACTIVE)
		return -EACCES;
	return 0;
}

/* ctl held. Owner messages do not log, so resizing for them does not either. */
static void resized(struct remap_device *rd, u32 was)
{
	u32 size = rd->table.size;

	if (size == was)
		return;
	WRITE_ONCE(rd->resizes, rd->resizes + 1);
	if (!rd->managed)
		pr_info(REMAP_LOG "Adaptive hash table resize: %u → %u buckets\n", was, size);
}

/* ctl held. A table that cannot be resized goes on as it is. */
static void fit(struct remap_device *rd, int (*resize)(struct remap_table *t))
{
	u32 was = rd->table.size;

	if (resize(&rd->table) && !rd->managed)
		pr_warn_ratelimited(REMAP_LOG "Table resize failed: out of memory\n");
	resized(rd, was);
}

/* ctl held. The change is published: let go what waited for it. */
static void changed(struct remap_device *rd, u64 fence, u64 start, u64 end)
{
	if (fence)
		remap_fence_end(rd, fence);
	remap_decide(rd, start, end, V_REDRIVE, false);
}

static int add_words(struct message *m, struct remap_entry *e, u64 *fence)
{
	unsigned int i = 4;
	u64 len, index;
	int r;

	r = remap_parse_u64(m->argv[1], &e->main);
	if (!r)
		r = remap_parse_u64(m->argv[2], &e->spare);
	if (!r)
		r = remap_parse_range(m->argv[3], 1, U32_MAX, &len);
	if (r)
		return r;
	e->len = len;
	if (i < m->argc && m->argv[i][0] >= '0' && m->argv[i][0] <= '9') {
		r = remap_parse_range(m->argv[i++], 0, U16_MAX, &index);
		if (r)
			return r;
		e->index = index;
	}
	for (; i < m->argc; i++) {
		if (!e->flags && !strcmp(m->argv[i], "marked"))
			e->flags = REMAP_MARKED;
		else if (*fence || !fence_word(m->argv[i], fence, &r))
			return -EINVAL;
		if (r)
			return r;
	}
	return 0;
}

int remap_add(struct message *m)
{
	struct remap_device *rd = m->rt->rd;
	const struct remap_entry *old;
	struct remap_entry e = { };
	u64 fence = 0, span;
	int r;

	r = add_words(m, &e, &fence);
	if (!r)
		r = remap_entry_check(&m->rt->limits, &e);
	if (!r && e.flags && !rd->has_key)
		r = -ENOKEY;
	if (!r && remap_device_contested(m->rt))
		r = -EBUSY;
	if (r)
		return r;
	/* What the replaced entry no longer covers changes its place too. */
	old = remap_table_at(&rd->table, e.main);
	span = old ? max(old->len, e.len) : e.len;
	r = may_change(rd, fence, e.main, span);
	if (!r)
		r = remap_table_add(&rd->table, &e);
	if (r)
		return r;
	WRITE_ONCE(rd->total_remaps, rd->total_remaps + 1);
	changed(rd, fence, e.main, e.main + span);
	fit(rd, remap_table_grow);
	return remap_done(m, "Added remap: %llu → %llu (length: %u)\n",
			  e.main, e.spare, e.len);
}

int remap_remove(struct message *m)
{
	struct remap_device *rd = m->rt->rd;
	const struct remap_entry *e;
	u64 main, spare, len, fence = 0;
	int r;

	r = remap_parse_u64(m->argv[1], &main);
	if (!r && m->argc > 2 && !fence_word(m->argv[2], &fence, &r))
		r = -EINVAL;
	if (r)
		return r;
	e = remap_table_at(&rd->table, main);
	if (!e)
		return -ENOENT;
	spare = e->spare;
	len = e->len;
	r = may_change(rd, fence, main, len);
	if (!r)
		r = remap_table_remove(&rd->table, main);
	if (r)
		return r;
	changed(rd, fence, main, main + len);
	fit(rd, remap_table_shrink);
	return remap_done(m, "Removed remap: %llu (was mapping to %llu)\n", main, spare);
}

/* From the first remap to the end of the last one. */
static int whole_span(struct remap_table *t, u64 *start, u64 *len)
{
	const struct remap_entry *last;
	int r;

	*start = *len = 0;
	if (!t->count)
		return 0;
	r = remap_table_sort(t);
	if (r)
		return r;
	last = t->sorted[t->count - 1];
	*start = t->sorted[0]->main;
	*len = last->main + last->len - *start;
	return 0;
}

int remap_clear(struct message *m)
{
	struct remap_device *rd = m->rt->rd;
	u64 count = rd->table.count, start, len, fence = 0;
	u32 size = rd->table.size;
	int r = 0;

	if (m->argc > 1 && !fence_word(m->argv[1], &fence, &r))
		r = -EINVAL;
	if (!r)
		r = whole_span(&rd->table, &start, &len);
	if (!r && count)
		r = may_change(rd, fence, start, len);
	if (!r)
		r = remap_table_clear(&rd->table);
	if (r)
		return r;
	resized(rd, size);
	changed(rd, fence, start, start + len);
	return remap_done(m, "Cleared all remaps (%llu entries removed)\n", count);
}

int remap_load(struct message *m)
{
	struct remap_device *rd = m->rt->rd;
	u64 n = remap_count_load(m->argv[1]), i;
	u32 size = rd->table.size;
	struct remap_entry *e;
	int r;

	if (READ_ONCE(rd->state) == STATE_ACTIVE)
		return -EACCES;
	if (remap_device_contested(m->rt))
		return -EBUSY;
	if (n > REMAP_MAX_LOAD)
		return -EINVAL;
	e = kvcalloc(n, sizeof(*e), GFP_KERNEL);
	if (!e)
		return -ENOMEM;
	r = remap_parse_load(m->argv[1], e, n);
	for (i = 0; i < n && !r; i++) {
		r = remap_entry_check(&m->rt->limits, &e[i]);
		if (!r && e[i].flags && !rd->has_key)
			r = -ENOKEY;
	}
	if (!r)
		r = remap_table_load(&rd->table, e, n);
	if (!r)
		WRITE_ONCE(rd->total_remaps, rd->total_remaps + n);
	resized(rd, size);
	kvfree(e);
	return r;
}

int remap_ready(struct message *m)
{
	struct remap_device *rd = m->rt->rd;
	const struct remap_table *t = &rd->table;
	u64 count, checksum;
	int r;

	r = remap_parse_u64(m->argv[1], &count);
	if (!r)
		r = remap_parse_hex64(m->argv[2], &checksum);
	if (r)
		return r;
	if (count != t->count || checksum != t->checksum)
		return -EBADMSG;
	spin_lock_irq(&rd->lock);
	WRITE_ONCE(rd->state, STATE_ACTIVE);
	remap_gate_update(rd);
	remap_kick(rd);
	spin_unlock_irq(&rd->lock);
	return 0;
}
