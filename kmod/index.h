/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A hash table of ranges: which entry covers a sector, and where the next one
 * begins, in a constant number of steps whatever the table holds.
 *
 * What is hashed is not a sector but a *region*, a stretch of sectors that is at
 * least as long as the entries filed under it. There are three sizes of region
 * (levels), so an entry touches one region of its level, or two. A region keeps
 * its entries in order. A lookup visits the regions that its range touches.
 *
 * Readers hold rcu_read_lock() and nothing else. Changes come one at a time; a
 * region is never modified, it is replaced by a new one.
 *
 * Pure C, like table.h.
 */
#ifndef REMAP_INDEX_H
#define REMAP_INDEX_H

#include <linux/types.h>

#define REMAP_LEVELS 3

struct remap_entry;
struct remap_buckets;

struct remap_index {
	bool by_place;			/* ordered by place on the spares, not by main */
	u64 used[REMAP_LEVELS];		/* entries of each level */
	struct remap_buckets __rcu *buckets;
};

/* New regions that are ready to replace those of the same key. */
struct remap_swaps {
	u64 count;
	struct remap_swap *swap;
};

u64 remap_index_pos(const struct remap_index *x, const struct remap_entry *e);
int remap_index_init(struct remap_index *x, u32 size);
/* Nobody reads it any more. @entry, or NULL, is called once for each entry. */
void remap_index_free(struct remap_index *x, void (*entry)(struct remap_entry *e));
const struct remap_entry *remap_index_find(const struct remap_index *x, u64 start,
					   u64 len, u64 *next);

/*
 * Prepare to add @n entries and to drop one (or NULL). Nothing overlaps what is
 * there but @drop. What is prepared is committed, which cannot fail, or
 * abandoned, before anything else is prepared.
 */
int remap_index_prepare(const struct remap_index *x, struct remap_entry *const *add,
			u64 n, const struct remap_entry *drop, struct remap_swaps *s);
void remap_index_commit(struct remap_index *x, struct remap_entry *const *add,
			u64 n, const struct remap_entry *drop, struct remap_swaps *s);
void remap_index_abandon(struct remap_swaps *s);

/* Other buckets, of which @size is a power of two. May wait for readers. */
int remap_index_resize(struct remap_index *x, u32 size);

/* Exchange the contents of two indexes of one kind. */
void remap_index_swap(struct remap_index *a, struct remap_index *b);

/* All entries, in no order, to @out, which has room for them. */
void remap_index_list(const struct remap_index *x, struct remap_entry **out);

#endif
