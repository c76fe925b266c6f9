// SPDX-License-Identifier: GPL-2.0-only
/*
 * The remap table in a kernel: with real RCU, a real slab cache and KASAN, while
 * readers look things up. What it answers is the business of unit.c.
 */
#include <kunit/test.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/random.h>
#include <linux/rcupdate.h>

#include "table.h"
/* Its regions are nobody's business but its own, and one test's. */
#include "index.c"

/* Where each remap has to lead, whoever made it and whenever. */
#define SECTORS		65536ULL
#define PLACE(main)	(3 * (main))
#define ENTRIES		2048
#define ROUNDS		20000

static struct remap_table table;
static unsigned long found, wrong;

static struct remap_entry entry(u32 n, u32 len)
{
	u64 main = (u64)n * (SECTORS / ENTRIES);

	return (struct remap_entry){ .main = main, .spare = PLACE(main), .len = len };
}

static void look_up(u64 sector, u64 len)
{
	const struct remap_entry *e;
	u64 next;

	rcu_read_lock();
	e = remap_table_find(&table, sector, len, &next);
	if (e) {
		found++;
		if (e->spare != PLACE(e->main) || e->main > sector ||
		    next > e->main + e->len)
			wrong++;
	}
	if (next <= sector || next > sector + len)
		wrong++;
	rcu_read_unlock();
}

static int reader(void *unused)
{
	u64 sector = 0;

	while (!kthread_should_stop()) {
		for (int i = 0; i < 64; i++) {
			sector = (sector + 977) % SECTORS;
			look_up(sector, 1 + sector % 4096);
		}
		cond_resched();
	}
	return 0;
}

static int table_init(struct kunit *test)
{
	KUNIT_ASSERT_EQ(test, remap_entries_init(), 0);
	KUNIT_ASSERT_EQ(test, remap_table_init(&table, REMAP_MIN_BUCKETS), 0);
	found = wrong = 0;
	return 0;
}

static void table_exit(struct kunit *test)
{
	synchronize_rcu();
	remap_table_free(&table);
	remap_entries_exit();
}

/* Add, replace, remove and clear at random, growing and shrinking, under lookups. */
static void changes_under_lookups(struct kunit *test)
{
	struct task_struct *readers[2];
	unsigned long added = 0, removed = 0;
	int i, r;

	for (i = 0; i < 2; i++) {
		readers[i] = kthread_run(reader, NULL, "reader%d", i);
		KUNIT_ASSERT_NOT_ERR_OR_NULL(test, readers[i]);
	}
	for (i = 0; i < ROUNDS; i++) {
		struct remap_entry e = entry(get_random_u32() % ENTRIES,
					     1 + get_random_u32() % (SECTORS / ENTRIES));

		if (get_random_u32() % 3) {
			r = remap_table_add(&table, &e);
			added += !r;
			KUNIT_EXPECT_EQ(test, remap_table_grow(&table), 0);
		} else {
			r = remap_table_remove(&table, e.main);
			removed += !r;
			r = r == -ENOENT ? 0 : r;
			KUNIT_EXPECT_EQ(test, remap_table_shrink(&table), 0);
		}
		KUNIT_EXPECT_EQ(test, r, 0);
		if (i % 5000 == 4999)
			KUNIT_EXPECT_EQ(test, remap_table_clear(&table), 0);
		if (i % 16 == 0)
			cond_resched();
	}
	for (i = 0; i < 2; i++)
		kthread_stop(readers[i]);
	KUNIT_EXPECT_GT(test, added, 1000UL);
	KUNIT_EXPECT_GT(test, removed, 100UL);
	KUNIT_EXPECT_GT(test, found, 1000UL);
	KUNIT_EXPECT_EQ(test, wrong, 0UL);
}

static unsigned long missed;

static int constant_reader(void *unused)
{
	u64 next;

	while (!kthread_should_stop()) {
		rcu_read_lock();
		missed += !remap_table_find(&table, 5, 1, &next);
		rcu_read_unlock();
		cond_resched();
	}
	return 0;
}

/* Whatever the sizes of the old and the new one, a lookup finds one of them. */
static void replaced_in_place(struct kunit *test)
{
	static const u32 lens[] = { 2048, 2049, 8, 1 << 22, (1 << 22) + 1 };
	struct remap_entry e = { .main = 0, .spare = 0 };
	struct task_struct *task;
	int i;

	e.len = 100;
	KUNIT_ASSERT_EQ(test, remap_table_add(&table, &e), 0);
	missed = 0;
	task = kthread_run(constant_reader, NULL, "reader");
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, task);
	for (i = 0; i < 200; i++) {
		e.len = lens[get_random_u32() % ARRAY_SIZE(lens)];
		KUNIT_EXPECT_EQ(test, remap_table_add(&table, &e), 0);
		cond_resched();
	}
	kthread_stop(task);
	KUNIT_EXPECT_EQ(test, missed, 0UL);
	KUNIT_EXPECT_EQ(test, table.count, 1ULL);
}

/* A refused load leaves nothing behind; an accepted one is whole. */
static void load_is_all_or_nothing(struct kunit *test)
{
	struct remap_entry *e = kunit_kcalloc(test, ENTRIES + 1, sizeof(*e), GFP_KERNEL);
	u64 sum = 0;
	int i;

	KUNIT_ASSERT_NOT_NULL(test, e);
	for (i = 0; i < ENTRIES; i++) {
		e[i] = entry(i, 8);
		sum += remap_entry_hash(&e[i]);
	}
	e[ENTRIES] = entry(0, 1);
	KUNIT_EXPECT_EQ(test, remap_table_load(&table, e, ENTRIES + 1), -EEXIST);
	KUNIT_EXPECT_EQ(test, table.count, 0ULL);
	KUNIT_EXPECT_EQ(test, table.checksum, 0ULL);
	KUNIT_EXPECT_EQ(test, remap_table_load(&table, e, ENTRIES), 0);
	KUNIT_EXPECT_EQ(test, table.count, (u64)ENTRIES);
	KUNIT_EXPECT_EQ(test, table.checksum, sum);
	KUNIT_ASSERT_EQ(test, remap_table_sort(&table), 0);
	for (i = 0; i < ENTRIES; i++)
		KUNIT_EXPECT_EQ(test, table.sorted[i]->main, e[i].main);
}

/*
 * What a lookup has in its hands is there until a grace period has passed. On one
 * CPU without preemption none passes before the one who removed it sleeps.
 */
static void removed_under_a_lookup(struct kunit *test)
{
	struct remap_entry e = entry(1, 8);
	const struct remap_region *region;
	const struct remap_entry *held;
	u64 next;

	KUNIT_ASSERT_EQ(test, remap_table_add(&table, &e), 0);
	rcu_read_lock();
	held = remap_table_find(&table, e.main, 1, &next);
	region = region_find(buckets_of(&table.main), region_key(0, e.main));
	rcu_read_unlock();
	KUNIT_ASSERT_NOT_NULL(test, held);
	KUNIT_ASSERT_NOT_NULL(test, region);
	KUNIT_EXPECT_EQ(test, remap_table_remove(&table, e.main), 0);
	KUNIT_EXPECT_EQ(test, READ_ONCE(held->spare), PLACE(e.main));
	KUNIT_EXPECT_EQ(test, READ_ONCE(region->count), 1U);
}

static struct kunit_case cases[] = {
	KUNIT_CASE(removed_under_a_lookup),
	KUNIT_CASE(changes_under_lookups),
	KUNIT_CASE(replaced_in_place),
	KUNIT_CASE(load_is_all_or_nothing),
	{}
};

static struct kunit_suite suite = {
	.name = "dm_remap_table",
	.init = table_init,
	.exit = table_exit,
	.test_cases = cases,
};
kunit_test_suite(suite);

MODULE_LICENSE("GPL");
