/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The remap table: which main ranges live on which spare ranges.
 *
 * Pure C. These files also compile, unchanged, in user space for the unit and
 * model tests; they use nothing but what tests/kmod/shim offers.
 */
#ifndef REMAP_TABLE_H
#define REMAP_TABLE_H

#include <linux/types.h>

#include "index.h"

#define REMAP_MAX_SPARES 8

#define REMAP_MIN_BUCKETS 64
#define REMAP_MAX_BUCKETS (1U << 24)

/* The range may hold lost marks: reads of it are checked. */
#define REMAP_MARKED 1

struct remap_entry {
	u64 main;
	u64 spare;
	u32 len;
	u16 index;
	u16 flags;
};

/*
 * Changed by one at a time. Readers of the remaps hold rcu_read_lock() and see,
 * of each remap, the state before a change or the one after it. An entry is
 * never modified.
 */
struct remap_table {
	u64 count;
	u64 checksum;
	u64 marked;
	u32 used;		/* bit n: something maps to spare n */
	u32 size;		/* buckets */
	u64 spare_used[REMAP_MAX_SPARES];
	struct remap_index main;
	struct remap_index place;
	struct remap_entry **sorted;	/* by main, see remap_table_sort() */
	bool sort_wanted;	/* since the last remap_table_collect() */
};

/* What a new entry is checked against. Lengths are in sectors. */
struct remap_limits {
	u64 main_len;
	u64 spare_len[REMAP_MAX_SPARES];
	unsigned int spares;
	u64 head;
	u64 tail;
	u32 align;		/* a power of two */
};

int remap_entries_init(void);
void remap_entries_exit(void);

u64 remap_mix(u64 x);
u64 remap_entry_hash(const struct remap_entry *e);
int remap_entry_check(const struct remap_limits *l, const struct remap_entry *e);

/* @size: buckets to start with, a power of two. */
int remap_table_init(struct remap_table *t, u32 size);
void remap_table_free(struct remap_table *t);

/*
 * Under RCU: the entry that covers @sector, or NULL. @next is where the answer
 * ends: the end of the entry, or else the start of the next one, but at most
 * @sector + @len, @len > 0.
 */
static inline const struct remap_entry *
remap_table_find(const struct remap_table *t, u64 sector, u64 len, u64 *next)
{
	if (!READ_ONCE(t->count)) {
		*next = sector + len;
		return NULL;
	}
	return remap_index_find(&t->main, sector, len, next);
}

/* The entry whose first sector is @main, or NULL. */
const struct remap_entry *remap_table_at(const struct remap_table *t, u64 main);

int remap_table_add(struct remap_table *t, const struct remap_entry *e);
int remap_table_remove(struct remap_table *t, u64 main);
int remap_table_load(struct remap_table *t, const struct remap_entry *e, u64 n);
int remap_table_clear(struct remap_table *t);

/*
 * After adding: twice the buckets, until there are at most 1.5 remaps for each.
 * After removing: half of them, if there are less than 0.5, but not less than
 * the minimum. -ENOMEM: the table stays as it was, and works.
 */
int remap_table_grow(struct remap_table *t);
int remap_table_shrink(struct remap_table *t);

/*
 * Make t->sorted, until the next change; and the first place in it that is not
 * before @main.
 */
int remap_table_sort(struct remap_table *t);
u64 remap_table_from(const struct remap_table *t, u64 main);

/* Free what has not been wanted since the last time. */
void remap_table_collect(struct remap_table *t);

#endif
