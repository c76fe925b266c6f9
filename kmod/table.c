// SPDX-License-Identifier: GPL-2.0-only
/* The remap table, see table.h. Pure C: also compiled by the user-space tests. */
#include <linux/errno.h>
#include <linux/limits.h>
#include <linux/overflow.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/string.h>

#include "table.h"

static u64 mix(u64 x)
{
	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9ULL;
	x ^= x >> 27;
	x *= 0x94d049bb133111ebULL;
	x ^= x >> 31;
	return x;
}

/* Summed over all entries it is the table's checksum, whatever their order. */
u64 remap_entry_hash(const struct remap_entry *e)
{
	u64 shape = (u64)e->len | (u64)e->index << 32 | (u64)e->flags << 48;

	return mix(mix(mix(e->main + 0x9e3779b97f4a7c15ULL) ^ e->spare) ^ shape);
}

/* Index of the first entry that ends behind @sector (count if there is none). */
u64 remap_table_from(const struct remap_table *t, u64 sector)
{
	u64 lo = 0, hi = t->count;

	while (lo < hi) {
		u64 mid = lo + (hi - lo) / 2;

		if (t->e[mid].main + t->e[mid].len <= sector)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/*
 * The entry that covers @sector, or NULL. @next is where the answer ends: the
 * end of the entry, or else the start of the next one (U64_MAX if none).
 */
const struct remap_entry *remap_table_find(const struct remap_table *t,
					   u64 sector, u64 *next)
{
	u64 i = remap_table_from(t, sector);
	const struct remap_entry *e;

	if (i == t->count) {
		*next = U64_MAX;
		return NULL;
	}
	e = &t->e[i];
	if (e->main > sector) {
		*next = e->main;
		return NULL;
	}
	*next = e->main + e->len;
	return e;
}

/* start + len <= size, without overflow */
static bool within(u64 start, u64 len, u64 size)
{
	return len <= size && start <= size - len;
}

int remap_entry_check(const struct remap_limits *l, const struct remap_entry *e)
{
	u64 size;

	if (!e->len || e->flags & ~REMAP_MARKED)
		return -EINVAL;
	if (e->index >= l->spares)
		return -ENODEV;
	if (!within(e->main, e->len, l->main_len))
		return -ERANGE;
	size = l->spare_len[e->index];
	if (!within(e->spare, e->len, size))
		return -ERANGE;
	/* What is reserved is not the owner's to give away either. */
	if (e->spare < l->head || l->tail > size ||
	    e->spare + e->len > size - l->tail)
		return -ERANGE;
	if ((e->main | e->spare | e->len) & (l->align - 1))
		return -EINVAL;
	return 0;
}

static bool overlap(u64 a, u64 alen, u64 b, u64 blen)
{
	return a < b + blen && b < a + alen;
}

static struct remap_table *table_alloc(u64 count)
{
	struct remap_table *t;

	if (count > (SIZE_MAX - sizeof(*t)) / sizeof(t->e[0]))
		return NULL;
	t = kvmalloc(struct_size(t, e, count), GFP_KERNEL);
	if (!t)
		return NULL;
	t->count = count;
	t->checksum = 0;
	t->marked = 0;
	t->used = 0;
	return t;
}

static void table_sum(struct remap_table *t)
{
	u64 i;

	t->checksum = 0;
	t->marked = 0;
	t->used = 0;
	for (i = 0; i < t->count; i++) {
		t->checksum += remap_entry_hash(&t->e[i]);
		t->marked += t->e[i].flags & REMAP_MARKED;
		t->used |= 1U << t->e[i].index;
	}
}

int remap_table_empty(struct remap_table **res)
{
	*res = table_alloc(0);
	return *res ? 0 : -ENOMEM;
}

/*
 * An entry with the same first sector is replaced; any other overlap, on main
 * or on the spare, is refused.
 */
int remap_table_add(const struct remap_table *old, const struct remap_entry *e,
		    struct remap_table **res)
{
	u64 at = remap_table_from(old, e->main);
	bool replace = at < old->count && old->e[at].main == e->main;
	u64 behind = at + replace, i;
	struct remap_table *t;

	if (at < old->count && old->e[at].main < e->main)
		return -EEXIST;
	if (behind < old->count && old->e[behind].main < e->main + e->len)
		return -EEXIST;
	for (i = 0; i < old->count; i++) {
		const struct remap_entry *o = &old->e[i];

		if (replace && i == at)
			continue;
		if (o->index == e->index &&
		    overlap(o->spare, o->len, e->spare, e->len))
			return -EEXIST;
	}

	t = table_alloc(old->count + !replace);
	if (!t)
		return -ENOMEM;
	memcpy(t->e, old->e, at * sizeof(*e));
	t->e[at] = *e;
	memcpy(&t->e[at + 1], &old->e[behind],
	       (old->count - behind) * sizeof(*e));
	table_sum(t);
	*res = t;
	return 0;
}

/* Remove the entry whose first sector is @main. */
int remap_table_remove(const struct remap_table *old, u64 main,
		       struct remap_table **res)
{
	u64 at = remap_table_from(old, main);
	struct remap_table *t;

	if (at == old->count || old->e[at].main != main)
		return -ENOENT;
	t = table_alloc(old->count - 1);
	if (!t)
		return -ENOMEM;
	memcpy(t->e, old->e, at * sizeof(t->e[0]));
	memcpy(&t->e[at], &old->e[at + 1],
	       (old->count - at - 1) * sizeof(t->e[0]));
	table_sum(t);
	*res = t;
	return 0;
}

static int by_main(const void *a, const void *b)
{
	const struct remap_entry *x = a, *y = b;

	return x->main < y->main ? -1 : x->main > y->main;
}

static int by_spare(const void *a, const void *b)
{
	const struct remap_entry *x = a, *y = b;

	if (x->index != y->index)
		return x->index < y->index ? -1 : 1;
	return x->spare < y->spare ? -1 : x->spare > y->spare;
}

/* Refuse two entries that share a sector, on the spare and then on main. */
static int sort_and_check(struct remap_table *t)
{
	u64 i;

	sort(t->e, t->count, sizeof(t->e[0]), by_spare, NULL);
	for (i = 1; i < t->count; i++)
		if (t->e[i - 1].index == t->e[i].index &&
		    t->e[i - 1].spare + t->e[i - 1].len > t->e[i].spare)
			return -EEXIST;
	sort(t->e, t->count, sizeof(t->e[0]), by_main, NULL);
	for (i = 1; i < t->count; i++)
		if (t->e[i - 1].main + t->e[i - 1].len > t->e[i].main)
			return -EEXIST;
	return 0;
}

/* Add @n entries at once; all or nothing, and nothing is replaced. */
int remap_table_load(const struct remap_table *old,
		     const struct remap_entry *e, u64 n,
		     struct remap_table **res)
{
	struct remap_table *t;
	int r;

	if (n > U64_MAX - old->count)
		return -ENOMEM;
	t = table_alloc(old->count + n);
	if (!t)
		return -ENOMEM;
	memcpy(t->e, old->e, old->count * sizeof(*e));
	memcpy(&t->e[old->count], e, n * sizeof(*e));
	r = sort_and_check(t);
	if (r) {
		kvfree(t);
		return r;
	}
	table_sum(t);
	*res = t;
	return 0;
}
