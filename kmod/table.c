// SPDX-License-Identifier: GPL-2.0-only
/* The remap table, see table.h. Pure C: also compiled by the user-space tests. */
#include <linux/container_of.h>
#include <linux/errno.h>
#include <linux/limits.h>
#include <linux/minmax.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/string.h>

#include "compat.h"
#include "table.h"

/* As the table keeps it. */
struct remap_slot {
	struct remap_entry e;
	struct rcu_head rcu;
};

static struct kmem_cache *slots;

/* Under a name of its own in /proc/slabinfo. */
int remap_entries_init(void)
{
	slots = remap_cache_create("remap_entry", sizeof(struct remap_slot));
	return slots ? 0 : -ENOMEM;
}

void remap_entries_exit(void)
{
	/* The last slots are on their way back. */
	rcu_barrier();
	kmem_cache_destroy(slots);
}

static struct remap_entry *slot_new(const struct remap_entry *e)
{
	struct remap_slot *s = kmem_cache_alloc(slots, GFP_KERNEL);

	if (!s)
		return NULL;
	s->e = *e;
	return &s->e;
}

/* Nobody has seen it, or nobody can see it any more. */
static void slot_free(struct remap_entry *e)
{
	kmem_cache_free(slots, container_of(e, struct remap_slot, e));
}

static void slot_retired(struct rcu_head *head)
{
	kmem_cache_free(slots, container_of(head, struct remap_slot, rcu));
}

static void slot_retire(const struct remap_entry *e)
{
	struct remap_slot *s = container_of((struct remap_entry *)e, struct remap_slot, e);

	call_rcu(&s->rcu, slot_retired);
}

u64 remap_mix(u64 x)
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

	return remap_mix(remap_mix(remap_mix(e->main + 0x9e3779b97f4a7c15ULL) ^ e->spare) ^
			 shape);
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

int remap_table_init(struct remap_table *t, u32 size)
{
	memset(t, 0, sizeof(*t));
	t->size = size;
	t->place.by_place = true;
	if (remap_index_init(&t->main, size))
		return -ENOMEM;
	return remap_index_init(&t->place, size);
}

static void drop_sorted(struct remap_table *t)
{
	kvfree(t->sorted);
	t->sorted = NULL;
}

/* Nobody reads it any more. */
void remap_table_free(struct remap_table *t)
{
	drop_sorted(t);
	remap_index_free(&t->main, slot_free);
	remap_index_free(&t->place, NULL);
}

const struct remap_entry *remap_table_at(const struct remap_table *t, u64 main)
{
	const struct remap_entry *e;
	u64 next;

	e = remap_table_find(t, main, 1, &next);
	return e && e->main == main ? e : NULL;
}

#define SLICE (1ULL << 22)

/* Does anything but @skip reach into the range? */
static bool taken(const struct remap_index *x, u64 start, u64 len,
		  const struct remap_entry *skip)
{
	u64 end = start + len;

	/* In slices: a large entry touches very many regions of small ones. */
	while (start < end) {
		const struct remap_entry *e =
			remap_index_find(x, start, min(end - start, SLICE), &start);

		if (e && e != skip)
			return true;
		cond_resched();
	}
	return false;
}

static bool any_taken(const struct remap_index *x, struct remap_entry *const *add, u64 n,
		      const struct remap_entry *skip)
{
	u64 i;

	for (i = 0; i < n; i++)
		if (taken(x, remap_index_pos(x, add[i]), add[i]->len, skip))
			return true;
	return false;
}

static int by_main(const void *a, const void *b)
{
	const struct remap_entry *x = *(struct remap_entry *const *)a;
	const struct remap_entry *y = *(struct remap_entry *const *)b;

	return x->main < y->main ? -1 : x->main > y->main;
}

static int by_place(const void *a, const void *b)
{
	const struct remap_entry *x = *(struct remap_entry *const *)a;
	const struct remap_entry *y = *(struct remap_entry *const *)b;

	if (x->index != y->index)
		return x->index < y->index ? -1 : 1;
	return x->spare < y->spare ? -1 : x->spare > y->spare;
}

/* Most lists come in order. */
static void sort_entries(struct remap_entry **e, u64 n,
			 int (*cmp)(const void *a, const void *b))
{
	u64 i;

	for (i = 1; i < n; i++) {
		if (cmp(&e[i - 1], &e[i]) > 0) {
			sort(e, n, sizeof(*e), cmp, NULL);
			return;
		}
	}
}

/* Of a sorted list: do two of its entries share a sector? */
static bool collide(const struct remap_index *x, struct remap_entry *const *e, u64 n)
{
	u64 i;

	for (i = 1; i < n; i++)
		if (remap_index_pos(x, e[i - 1]) + e[i - 1]->len > remap_index_pos(x, e[i]))
			return true;
	return false;
}

static bool clash(const struct remap_index *x, struct remap_entry **add, u64 n,
		  const struct remap_entry *drop)
{
	sort_entries(add, n, x->by_place ? by_place : by_main);
	return collide(x, add, n) || any_taken(x, add, n, drop);
}

static u32 grown(u32 size, u64 count)
{
	while (2 * count > 3 * (u64)size && size < REMAP_MAX_BUCKETS)
		size *= 2;
	return size;
}

static int resize(struct remap_table *t, u32 size)
{
	int r;

	if (size == t->size)
		return 0;
	r = remap_index_resize(&t->main, size);
	if (!r)
		r = remap_index_resize(&t->place, size);
	if (!r)
		WRITE_ONCE(t->size, size);
	else
		/* Sizes that differ do no harm, but only one is reported. */
		remap_index_resize(&t->main, t->size);
	return r;
}

int remap_table_grow(struct remap_table *t)
{
	return resize(t, grown(t->size, t->count));
}

int remap_table_shrink(struct remap_table *t)
{
	bool sparse = 2 * t->count < t->size && t->size > REMAP_MIN_BUCKETS;

	return resize(t, sparse ? t->size / 2 : t->size);
}

static void count_entry(struct remap_table *t, const struct remap_entry *e)
{
	t->checksum += remap_entry_hash(e);
	t->marked += e->flags & REMAP_MARKED;
	if (!t->spare_used[e->index]++)
		WRITE_ONCE(t->used, t->used | 1U << e->index);
}

static void uncount_entry(struct remap_table *t, const struct remap_entry *e)
{
	t->checksum -= remap_entry_hash(e);
	t->marked -= e->flags & REMAP_MARKED;
	if (!--t->spare_used[e->index])
		WRITE_ONCE(t->used, t->used & ~(1U << e->index));
}

/* Add slots, which are the table's from then on, and drop one; all or nothing. */
static int change(struct remap_table *t, struct remap_entry **add, u64 n,
		  const struct remap_entry *drop)
{
	struct remap_swaps main, place;
	u64 i;
	int r;

	if (clash(&t->main, add, n, drop) || clash(&t->place, add, n, drop))
		return -EEXIST;
	/* Room first: chains that grow and grow would be walked for each region. */
	r = n > 1 ? resize(t, grown(t->size, t->count + n)) : 0;
	if (!r)
		r = remap_index_prepare(&t->main, add, n, drop, &main);
	if (r)
		return r;
	r = remap_index_prepare(&t->place, add, n, drop, &place);
	if (r) {
		remap_index_abandon(&main);
		return r;
	}
	drop_sorted(t);
	/* Counted before a reader can meet it, and for as long as one can. */
	for (i = 0; i < n; i++)
		count_entry(t, add[i]);
	WRITE_ONCE(t->count, t->count + n);
	remap_index_commit(&t->place, add, n, drop, &place);
	remap_index_commit(&t->main, add, n, drop, &main);
	if (drop) {
		WRITE_ONCE(t->count, t->count - 1);
		uncount_entry(t, drop);
		slot_retire(drop);
	}
	return 0;
}

/*
 * An entry with the same first sector is replaced; any other overlap, on main
 * or on the spare, is refused.
 */
int remap_table_add(struct remap_table *t, const struct remap_entry *e)
{
	struct remap_entry *new = slot_new(e);
	int r;

	if (!new)
		return -ENOMEM;
	r = change(t, &new, 1, remap_table_at(t, e->main));
	if (r)
		slot_free(new);
	return r;
}

/* Remove the entry whose first sector is @main. */
int remap_table_remove(struct remap_table *t, u64 main)
{
	const struct remap_entry *e = remap_table_at(t, main);

	return e ? change(t, NULL, 0, e) : -ENOENT;
}

/* Add @n entries at once; all or nothing, and nothing is replaced. */
int remap_table_load(struct remap_table *t, const struct remap_entry *e, u64 n)
{
	struct remap_entry **add = kvmalloc_array(n, sizeof(*add), GFP_KERNEL);
	u64 made = 0;
	int r = add ? 0 : -ENOMEM;

	while (!r && made < n) {
		add[made] = slot_new(&e[made]);
		if (add[made])
			made++;
		else
			r = -ENOMEM;
	}
	if (!r)
		r = change(t, add, n, NULL);
	while (r && made)
		slot_free(add[--made]);
	kvfree(add);
	return r;
}

int remap_table_clear(struct remap_table *t)
{
	struct remap_table empty;

	if (remap_table_init(&empty, REMAP_MIN_BUCKETS)) {
		remap_table_free(&empty);
		return -ENOMEM;
	}
	drop_sorted(t);
	remap_index_swap(&t->main, &empty.main);
	remap_index_swap(&t->place, &empty.place);
	WRITE_ONCE(t->count, 0);
	WRITE_ONCE(t->used, 0);
	WRITE_ONCE(t->size, empty.size);
	memset(t->spare_used, 0, sizeof(t->spare_used));
	t->checksum = 0;
	t->marked = 0;
	synchronize_rcu();
	remap_table_free(&empty);
	return 0;
}

int remap_table_sort(struct remap_table *t)
{
	struct remap_entry **all = t->sorted;

	t->sort_wanted = true;
	if (all)
		return 0;
	all = kvmalloc_array(max(t->count, 1ULL), sizeof(*all), GFP_KERNEL);
	if (!all)
		return -ENOMEM;
	remap_index_list(&t->main, all);
	sort_entries(all, t->count, by_main);
	t->sorted = all;
	return 0;
}

u64 remap_table_from(const struct remap_table *t, u64 main)
{
	u64 lo = 0, hi = t->count;

	while (lo < hi) {
		u64 mid = lo + (hi - lo) / 2;

		if (t->sorted[mid]->main < main)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

void remap_table_collect(struct remap_table *t)
{
	if (!t->sort_wanted)
		drop_sorted(t);
	t->sort_wanted = false;
}
