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

#define REMAP_MAX_SPARES 8

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
 * Immutable once published, sorted by main sector. A change builds a new table
 * and RCU retires the old one, so that a lookup takes no lock and sees either
 * the state before a message or the one after it, never something between.
 */
struct remap_table {
	struct rcu_head rcu;
	u64 count;
	u64 checksum;
	u64 marked;
	u32 used;		/* bit n: something maps to spare n */
	struct remap_entry e[];
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

u64 remap_entry_hash(const struct remap_entry *e);

const struct remap_entry *remap_table_find(const struct remap_table *t,
					   u64 sector, u64 *next);
u64 remap_table_from(const struct remap_table *t, u64 sector);

int remap_entry_check(const struct remap_limits *l, const struct remap_entry *e);

int remap_table_add(const struct remap_table *old, const struct remap_entry *e,
		    struct remap_table **res);
int remap_table_remove(const struct remap_table *old, u64 main,
		       struct remap_table **res);
int remap_table_load(const struct remap_table *old,
		     const struct remap_entry *e, u64 n,
		     struct remap_table **res);
int remap_table_empty(struct remap_table **res);

#endif
