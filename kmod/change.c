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

/* ctl held. The change is published: let go what waited for it. */
static void changed(struct remap_device *rd, u64 fence, u64 start, u64 end)
{
	if (fence)
		remap_fence_end(rd, fence);
	remap_decide(rd, start, end, V_REDRIVE);
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
		if (!m->rt->managed)
			return -EINVAL;
		if (!strcmp(m->argv[i], "marked"))
			e->flags = REMAP_MARKED;
		else if (!fence_word(m->argv[i], fence, &r))
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
	struct remap_table *t;
	u64 fence = 0, next, span;
	int r;

	if (m->maxlen < REPLY_ROOM)
		return remap_no_room(m);
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
	old = remap_table_find(remap_table_of(rd), e.main, &next);
	span = old && old->main == e.main ? max(old->len, e.len) : e.len;
	r = may_change(rd, fence, e.main, span);
	if (!r)
		r = remap_table_add(remap_table_of(rd), &e, &t);
	if (r)
		return r;
	remap_publish(rd, t);
	changed(rd, fence, e.main, e.main + span);
	return remap_done(m, "Added remap: %llu → %llu (length: %u)\n",
			  e.main, e.spare, e.len);
}

int remap_remove(struct message *m)
{
	struct remap_device *rd = m->rt->rd;
	const struct remap_entry *e;
	struct remap_table *t;
	u64 main, spare, len, next, fence = 0;
	int r;

	if (m->maxlen < REPLY_ROOM)
		return remap_no_room(m);
	r = remap_parse_u64(m->argv[1], &main);
	if (!r && m->argc > 2 &&
	    (!rd->managed || !fence_word(m->argv[2], &fence, &r)))
		r = -EINVAL;
	if (r)
		return r;
	e = remap_table_find(remap_table_of(rd), main, &next);
	if (!e || e->main != main)
		return -ENOENT;
	spare = e->spare;
	len = e->len;
	r = may_change(rd, fence, main, len);
	if (!r)
		r = remap_table_remove(remap_table_of(rd), main, &t);
	if (r)
		return r;
	remap_publish(rd, t);
	changed(rd, fence, main, main + len);
	return remap_done(m, "Removed remap: %llu (was mapping to %llu)\n", main, spare);
}

int remap_clear(struct message *m)
{
	struct remap_device *rd = m->rt->rd;
	struct remap_table *old = remap_table_of(rd), *t;
	u64 count = old->count, start = 0, len = 0, fence = 0;
	int r = 0;

	if (m->maxlen < REPLY_ROOM)
		return remap_no_room(m);
	if (m->argc > 1 && (!rd->managed || !fence_word(m->argv[1], &fence, &r)))
		r = -EINVAL;
	if (r)
		return r;
	if (count) {
		start = old->e[0].main;
		len = old->e[count - 1].main + old->e[count - 1].len - start;
	}
	r = may_change(rd, fence, start, len);
	if (!r)
		r = remap_table_empty(&t);
	if (r)
		return r;
	remap_publish(rd, t);
	changed(rd, fence, start, start + len);
	return remap_done(m, "Cleared all remaps (%llu entries removed)\n", count);
}

int remap_load(struct message *m)
{
	struct remap_device *rd = m->rt->rd;
	u64 n = remap_count_load(m->argv[1]), i;
	struct remap_entry *e;
	struct remap_table *t;
	int r;

	if (READ_ONCE(rd->state) == STATE_ACTIVE)
		return -EACCES;
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
		r = remap_table_load(remap_table_of(rd), e, n, &t);
	if (!r)
		remap_publish(rd, t);
	kvfree(e);
	return r;
}

int remap_ready(struct message *m)
{
	struct remap_device *rd = m->rt->rd;
	struct remap_table *t = remap_table_of(rd);
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
