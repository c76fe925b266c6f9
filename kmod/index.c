// SPDX-License-Identifier: GPL-2.0-only
/* The hash table of ranges, see index.h. Pure C: also compiled by the user-space tests. */
#include <linux/errno.h>
#include <linux/limits.h>
#include <linux/minmax.h>
#include <linux/overflow.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/string.h>

#include "table.h"

/* Log2 of the sectors in a region: 1 MiB, 2 GiB, 4 TiB. */
static const u8 region_shift[REMAP_LEVELS] = { 11, 22, 33 };

/* A sector number has at most 55 bits, so neither field runs into the next. */
#define PLACE_SHIFT 57
#define LEVEL_SHIFT 60

struct remap_region {
	struct rcu_head rcu;
	struct remap_region __rcu *next;
	u64 key;
	u32 count;
	struct remap_entry *e[];
};

struct remap_buckets {
	u32 size;
	struct remap_region __rcu *head[];
};

struct remap_swap {
	u64 key;
	struct remap_region *new;	/* NULL: the region is empty now */
};

/* An entry that a region gains; or, without one, a region that loses one. */
struct touch {
	u64 key;
	u64 pos;
	struct remap_entry *e;
};

u64 remap_index_pos(const struct remap_index *x, const struct remap_entry *e)
{
	return x->by_place ? (u64)e->index << PLACE_SHIFT | e->spare : e->main;
}

static unsigned int level_of(const struct remap_entry *e)
{
	unsigned int level = 0;

	while (e->len > 1ULL << region_shift[level])
		level++;
	return level;
}

static u64 region_key(unsigned int level, u64 pos)
{
	return (u64)level << LEVEL_SHIFT | pos >> region_shift[level];
}

static u32 bucket_of(const struct remap_buckets *b, u64 key)
{
	return remap_mix(key) & (b->size - 1);
}

static struct remap_buckets *buckets_alloc(u32 size)
{
	struct remap_buckets *b = kvzalloc(struct_size(b, head, size), GFP_KERNEL);

	if (b)
		b->size = size;
	return b;
}

/* For those who change the index. */
static struct remap_region *first(const struct remap_buckets *b, u32 i)
{
	return rcu_dereference_protected(b->head[i], 1);
}

static struct remap_region *next_of(const struct remap_region *r)
{
	return rcu_dereference_protected(r->next, 1);
}

static void buckets_free(struct remap_buckets *b)
{
	struct remap_region *r, *next;
	u32 i;

	for (i = 0; i < b->size; i++) {
		for (r = first(b, i); r; r = next) {
			next = next_of(r);
			kvfree(r);
		}
	}
	kvfree(b);
}

static struct remap_buckets *buckets_of(const struct remap_index *x)
{
	return rcu_dereference_protected(x->buckets, 1);
}

int remap_index_init(struct remap_index *x, u32 size)
{
	struct remap_buckets *b = buckets_alloc(size);

	RCU_INIT_POINTER(x->buckets, b);
	return b ? 0 : -ENOMEM;
}


/* Under RCU, or by those who change the index. */
static const struct remap_region *region_find(const struct remap_buckets *b, u64 key)
{
	const struct remap_region *r;

	for (r = rcu_dereference_check(b->head[bucket_of(b, key)], 1); r;
	     r = rcu_dereference_check(r->next, 1))
		if (r->key == key)
			return r;
	return NULL;
}

/* The first entry of a region that ends behind @start, or NULL. */
static const struct remap_entry *region_from(const struct remap_index *x,
					     const struct remap_region *r, u64 start)
{
	u32 lo = 0, hi = r->count;

	while (lo < hi) {
		u32 mid = lo + (hi - lo) / 2;

		if (remap_index_pos(x, r->e[mid]) + r->e[mid]->len <= start)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < r->count ? r->e[lo] : NULL;
}

/*
 * The first entry of a level that reaches into [@start, @end), or NULL. An
 * entry that begins behind @end may be returned too.
 */
static const struct remap_entry *level_find(const struct remap_index *x,
					    const struct remap_buckets *b,
					    unsigned int level, u64 start, u64 end)
{
	u64 key = region_key(level, start), last = region_key(level, end - 1);

	for (; key <= last; key++) {
		const struct remap_region *r = region_find(b, key);
		const struct remap_entry *e = r ? region_from(x, r, start) : NULL;

		if (e)
			return e;
	}
	return NULL;
}

/*
 * The entry that covers @start, or NULL. @next is where the answer ends: the end
 * of that entry, or else the start of the next one, but at most @start + @len.
 */
const struct remap_entry *remap_index_find(const struct remap_index *x, u64 start,
					   u64 len, u64 *next)
{
	const struct remap_buckets *b = rcu_dereference_check(x->buckets, 1);
	u64 end = start + len;
	unsigned int level;

	for (level = 0; level < REMAP_LEVELS; level++) {
		const struct remap_entry *e = NULL;

		if (READ_ONCE(x->used[level]))
			e = level_find(x, b, level, start, end);
		if (!e)
			continue;
		if (remap_index_pos(x, e) <= start) {
			*next = min(end, remap_index_pos(x, e) + e->len);
			return e;
		}
		end = min(end, remap_index_pos(x, e));
	}
	*next = end;
	return NULL;
}

static int by_key(const void *a, const void *b)
{
	const struct touch *s = a, *t = b;

	if (s->key != t->key)
		return s->key < t->key ? -1 : 1;
	return s->pos < t->pos ? -1 : s->pos > t->pos;
}

/* One or two touches for the regions of an entry's range. */
static u64 touch_entry(const struct remap_index *x, struct touch *t,
		       const struct remap_entry *range, struct remap_entry *e)
{
	unsigned int level = level_of(range);
	u64 pos = remap_index_pos(x, range);
	u64 key = region_key(level, pos), last = region_key(level, pos + range->len - 1);

	t[0] = (struct touch){ key, pos, e };
	if (last != key)
		t[1] = (struct touch){ last, pos, e };
	return 1 + (last != key);
}

static struct touch *touches(const struct remap_index *x, struct remap_entry *const *add,
			     u64 n, const struct remap_entry *drop, u64 *count)
{
	struct touch *t = kvmalloc_array(2 * (n + 1), sizeof(*t), GFP_KERNEL);
	u64 i, at = 0;
	bool sorted = true;

	if (!t)
		return NULL;
	for (i = 0; i < n; i++)
		at += touch_entry(x, &t[at], add[i], add[i]);
	if (drop)
		at += touch_entry(x, &t[at], drop, NULL);
	for (i = 1; i < at && sorted; i++)
		sorted = by_key(&t[i - 1], &t[i]) < 0;
	if (!sorted)
		sort(t, at, sizeof(*t), by_key, NULL);
	*count = at;
	return t;
}

/* The region that @old becomes with @n touches and without @drop; maybe NULL. */
static int region_merge(const struct remap_index *x, const struct remap_region *old,
			const struct touch *t, u64 n, const struct remap_entry *drop,
			struct remap_region **res)
{
	u32 kept = old ? old->count : 0, i = 0, at = 0;
	struct remap_region *new;
	u64 key = t->key;

	new = kvmalloc(struct_size(new, e, kept + n), GFP_KERNEL);
	if (!new)
		return -ENOMEM;
	while (i < kept || n) {
		if (i < kept && old->e[i] == drop)
			i++;
		else if (n && !t->e)
			n--, t++;
		else if (i < kept && (!n || remap_index_pos(x, old->e[i]) < t->pos))
			new->e[at++] = old->e[i++];
		else
			new->e[at++] = t->e, n--, t++;
	}
	new->key = key;
	new->count = at;
	if (!at) {
		kvfree(new);
		new = NULL;
	}
	*res = new;
	return 0;
}

int remap_index_prepare(const struct remap_index *x, struct remap_entry *const *add,
			u64 n, const struct remap_entry *drop, struct remap_swaps *s)
{
	const struct remap_buckets *b = buckets_of(x);
	struct touch *t;
	u64 count, i, end;
	int r = 0;

	s->count = 0;
	s->swap = NULL;
	t = touches(x, add, n, drop, &count);
	if (!t)
		return -ENOMEM;
	s->swap = kvmalloc_array(count, sizeof(*s->swap), GFP_KERNEL);
	if (!s->swap)
		r = -ENOMEM;
	for (i = 0; i < count && !r; i = end) {
		struct remap_swap *swap = &s->swap[s->count];

		for (end = i + 1; end < count && t[end].key == t[i].key; end++)
			;
		swap->key = t[i].key;
		r = region_merge(x, region_find(b, swap->key), &t[i], end - i, drop,
				 &swap->new);
		s->count += !r;
	}
	kvfree(t);
	if (r)
		remap_index_abandon(s);
	return r;
}

void remap_index_abandon(struct remap_swaps *s)
{
	while (s->count)
		kvfree(s->swap[--s->count].new);
	kvfree(s->swap);
}

static void region_replace(struct remap_buckets *b, const struct remap_swap *swap)
{
	struct remap_region __rcu **link = &b->head[bucket_of(b, swap->key)];
	struct remap_region *old, *next;

	while ((old = rcu_dereference_protected(*link, 1)) && old->key != swap->key)
		link = &old->next;
	next = old ? rcu_dereference_protected(old->next, 1) : NULL;
	if (swap->new) {
		RCU_INIT_POINTER(swap->new->next, next);
		next = swap->new;
	}
	rcu_assign_pointer(*link, next);
	if (old)
		kvfree_rcu(old, rcu);
}

static void replace_level(struct remap_buckets *b, const struct remap_swaps *s,
			  unsigned int level)
{
	u64 i;

	for (i = 0; i < s->count; i++)
		if (s->swap[i].key >> LEVEL_SHIFT == level)
			region_replace(b, &s->swap[i]);
}

void remap_index_commit(struct remap_index *x, struct remap_entry *const *add,
			u64 n, const struct remap_entry *drop, struct remap_swaps *s)
{
	struct remap_buckets *b = buckets_of(x);
	u64 i;

	/* A level counts before a reader can find its entries, and as long. */
	for (i = 0; i < n; i++) {
		u64 *used = &x->used[level_of(add[i])];

		WRITE_ONCE(*used, *used + 1);
	}
	if (n && drop && level_of(add[0]) != level_of(drop)) {
		/* A lookup that goes from level to level must not miss both. */
		replace_level(b, s, level_of(add[0]));
		synchronize_rcu();
		replace_level(b, s, level_of(drop));
	} else {
		for (i = 0; i < s->count; i++)
			region_replace(b, &s->swap[i]);
	}
	if (drop) {
		u64 *used = &x->used[level_of(drop)];

		WRITE_ONCE(*used, *used - 1);
	}
	kvfree(s->swap);
}

static int region_copy(struct remap_buckets *to, const struct remap_region *r)
{
	struct remap_region __rcu **head = &to->head[bucket_of(to, r->key)];
	struct remap_region *copy = kvmalloc(struct_size(copy, e, r->count), GFP_KERNEL);

	if (!copy)
		return -ENOMEM;
	memcpy(copy, r, struct_size(copy, e, r->count));
	RCU_INIT_POINTER(copy->next, rcu_dereference_protected(*head, 1));
	RCU_INIT_POINTER(*head, copy);
	return 0;
}

int remap_index_resize(struct remap_index *x, u32 size)
{
	struct remap_buckets *old = buckets_of(x), *new = buckets_alloc(size);
	const struct remap_region *r;
	u32 i;

	if (!new)
		return -ENOMEM;
	for (i = 0; i < old->size; i++) {
		for (r = first(old, i); r;
		     r = next_of(r)) {
			if (region_copy(new, r)) {
				buckets_free(new);
				return -ENOMEM;
			}
		}
	}
	rcu_assign_pointer(x->buckets, new);
	synchronize_rcu();
	buckets_free(old);
	return 0;
}

void remap_index_swap(struct remap_index *a, struct remap_index *b)
{
	struct remap_buckets *ab = buckets_of(a), *bb = buckets_of(b);
	unsigned int i;

	rcu_assign_pointer(a->buckets, bb);
	rcu_assign_pointer(b->buckets, ab);
	for (i = 0; i < REMAP_LEVELS; i++) {
		u64 used = a->used[i];

		WRITE_ONCE(a->used[i], b->used[i]);
		WRITE_ONCE(b->used[i], used);
	}
}

/* Is this the first of the regions that the entry touches? */
static bool begins_in(const struct remap_index *x, const struct remap_entry *e,
		      const struct remap_region *r)
{
	return region_key(level_of(e), remap_index_pos(x, e)) == r->key;
}

void remap_index_list(const struct remap_index *x, struct remap_entry **out)
{
	const struct remap_buckets *b = buckets_of(x);
	const struct remap_region *r;
	u32 i, j;

	for (i = 0; i < b->size; i++)
		for (r = first(b, i); r; r = next_of(r))
			for (j = 0; j < r->count; j++)
				if (begins_in(x, r->e[j], r))
					*out++ = r->e[j];
}

/* An entry that touches two regions stays in the first one only. */
static void forget_seconds(const struct remap_index *x, const struct remap_buckets *b)
{
	struct remap_region *r;
	u32 i, j;

	for (i = 0; i < b->size; i++)
		for (r = first(b, i); r; r = next_of(r))
			for (j = 0; j < r->count; j++)
				if (!begins_in(x, r->e[j], r))
					r->e[j] = NULL;
}

static void free_entries(const struct remap_buckets *b, void (*entry)(struct remap_entry *e))
{
	struct remap_region *r;
	u32 i, j;

	for (i = 0; i < b->size; i++)
		for (r = first(b, i); r; r = next_of(r))
			for (j = 0; j < r->count; j++)
				if (r->e[j])
					entry(r->e[j]);
}

void remap_index_free(struct remap_index *x, void (*entry)(struct remap_entry *e))
{
	struct remap_buckets *b = buckets_of(x);

	if (!b)
		return;
	if (entry) {
		forget_seconds(x, b);
		free_entries(b, entry);
	}
	buckets_free(b);
}
