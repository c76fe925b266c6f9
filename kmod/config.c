// SPDX-License-Identifier: GPL-2.0-only
/*
 * The table line:
 *
 *   <start> <len> dm-remap-v4 <main> <spare> [<#optwords> <opt>...]
 *
 *   small_spare             allow a spare below 5 % of main
 *   managed                 changes need the owner; holding and fences exist
 *   reserve <head> <tail>   sectors of each spare that no remap may use
 *   closed <ms>             I/O waits for "ready", and fails after this bound
 *   hold <ms>               how long a failed write may be held
 *   spare <dev>             a further spare, index 1 and up
 */
#include <linux/slab.h>

#define DM_MSG_PREFIX "remap-v4"

#include "remap.h"

#define MAX_OPTION_WORDS 40

/* Device-mapper logs the reason; the word that it is about, here. May be anything. */
static int refused(struct remap_target *rt, char *why, const char *word, int r)
{
	rt->ti->error = why;
	DMERR("%s: '%*pE'", why, (int)strnlen(word, 64), word);
	return r;
}

static int get_member(struct remap_target *rt, const char *path,
		      struct dm_dev **dev)
{
	struct dm_target *ti = rt->ti;
	int r = dm_get_device(ti, path, dm_table_get_mode(ti->table), dev);

	if (r)
		return refused(rt, "Device not found", path, r);
	if (bdev_is_zoned((*dev)->bdev))
		return refused(rt, "Zoned members are not supported", path, -EINVAL);
	return 0;
}

static int add_spare(struct remap_target *rt, const char *path)
{
	unsigned int i = rt->limits.spares, o;
	int r;

	if (i == REMAP_MAX_SPARES)
		return refused(rt, "Too many spares", path, -EINVAL);
	r = get_member(rt, path, &rt->spare[i]);
	if (rt->spare[i]) {
		rt->limits.spares++;
		rt->limits.spare_len[i] = bdev_nr_sectors(rt->spare[i]->bdev);
	}
	/* Two indices for one sector: overlaps would go unseen. */
	for (o = 0; o < i && !r; o++)
		if (rt->spare[o]->bdev == rt->spare[i]->bdev)
			r = refused(rt, "Spare given twice", path, -EINVAL);
	return r;
}

static int option_number(struct remap_target *rt, const char *word, u64 min,
			 u64 max, u64 *v)
{
	int r = remap_parse_range(word, min, max, v);

	return r ? refused(rt, "Invalid option value", word, r) : 0;
}

static int reserve(struct remap_target *rt, char **argv)
{
	return option_number(rt, argv[1], 0, U64_MAX, &rt->limits.head) ?:
	       option_number(rt, argv[2], 0, U64_MAX, &rt->limits.tail);
}

static int closed(struct remap_target *rt, char **argv)
{
	u64 ms = 0;
	int r = option_number(rt, argv[1], 1, REMAP_MAX_CLOSED_MS, &ms);

	rt->closed_ms = ms;
	return r;
}

static int hold(struct remap_target *rt, char **argv)
{
	u64 ms = 0;
	int r = option_number(rt, argv[1], 0, REMAP_MAX_HOLD_MS, &ms);

	rt->hold_ms = ms;
	return r;
}

static int small_spare(struct remap_target *rt, char **argv)
{
	rt->small_spare = true;
	return 0;
}

static int managed(struct remap_target *rt, char **argv)
{
	rt->managed = true;
	return 0;
}

static int spare(struct remap_target *rt, char **argv)
{
	return add_spare(rt, argv[1]);
}

static const struct option {
	const char *name;
	unsigned int words;	/* with the name */
	bool again;		/* may be given more than once */
	int (*take)(struct remap_target *rt, char **argv);
} option_list[] = {
	{ "small_spare", 1, false, small_spare },
	{ "managed", 1, false, managed },
	{ "reserve", 3, false, reserve },
	{ "closed", 2, false, closed },
	{ "hold", 2, false, hold },
	{ "spare", 2, true, spare },
};

/* One option and its words; how many words it took, or an error. */
static int one_option(struct remap_target *rt, unsigned int argc, char **argv,
		      unsigned long *given)
{
	const struct option *o = option_list;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(option_list) && strcmp(argv[0], o->name); i++)
		o++;
	if (i == ARRAY_SIZE(option_list))
		return refused(rt, "Unknown option", argv[0], -EINVAL);
	if (__test_and_set_bit(i, given) && !o->again)
		return refused(rt, "Option given twice", argv[0], -EINVAL);
	if (argc < o->words)
		return refused(rt, "Option without its value", argv[0], -EINVAL);
	return o->take(rt, argv) ?: o->words;
}

/* Keep the words for `dmsetup table`, devices as device-mapper names them. */
static int keep_words(struct remap_target *rt, char **argv, int n)
{
	bool dev = !strcmp(argv[0], "spare");
	char *old = rt->options, *new = NULL;
	int i;

	for (i = 0; i < n; i++) {
		const char *word = i && dev ?
			rt->spare[rt->limits.spares - 1]->name : argv[i];

		new = kasprintf(GFP_KERNEL, "%s%s%s", old ?: "", old ? " " : "", word);
		kfree(old);
		rt->options = old = new;
		if (!new)
			return -ENOMEM;
	}
	return 0;
}

static int options(struct remap_target *rt, unsigned int argc, char **argv)
{
	unsigned long given = 0;
	u64 words;
	int r, n;

	if (!argc)
		return 0;
	r = remap_parse_range(argv[0], 0, MAX_OPTION_WORDS, &words);
	if (r || words != argc - 1)
		return refused(rt, "Invalid argument count", argv[0], -EINVAL);
	r = keep_words(rt, argv, 1);
	argc--;
	argv++;
	while (!r && argc) {
		n = one_option(rt, argc, argv, &given);
		if (n < 0)
			return n;
		r = keep_words(rt, argv, n);
		argc -= n;
		argv += n;
	}
	return r;
}

static int check_sizes(struct remap_target *rt)
{
	struct dm_target *ti = rt->ti;
	unsigned int i, block = bdev_logical_block_size(rt->main->bdev), b;

	rt->block_size = block;
	for (i = 0; i < rt->limits.spares; i++) {
		b = bdev_logical_block_size(rt->spare[i]->bdev);
		if (rt->managed && b != block)
			return refused(rt, "Members differ in logical block size",
				       rt->spare[i]->name, -EINVAL);
		rt->block_size = max(rt->block_size, b);
	}
	rt->limits.align = rt->block_size >> SECTOR_SHIFT;
	rt->limits.main_len = ti->len;
	if (ti->len > bdev_nr_sectors(rt->main->bdev))
		return refused(rt, "Main device is smaller than the target",
			       rt->main->name, -EINVAL);
	for (i = 0; i < rt->limits.spares && !rt->small_spare; i++)
		if (rt->limits.spare_len[i] < DIV_ROUND_UP_ULL(ti->len, 20))
			return refused(rt, "No space left: spare is below 5% of main",
				       rt->spare[i]->name, -ENOSPC);
	return 0;
}

static int check_managed(struct remap_target *rt, bool hold_given)
{
	if (!rt->managed && (rt->closed_ms || hold_given))
		return refused(rt, "Option needs managed",
			       rt->closed_ms ? "closed" : "hold", -EINVAL);
	return 0;
}

int remap_config(struct remap_target *rt, unsigned int argc, char **argv)
{
	struct dm_target *ti = rt->ti;
	int r;

	if (argc < 2) {
		ti->error = "Invalid argument count";
		return -EINVAL;
	}
	rt->hold_ms = UINT_MAX;
	r = get_member(rt, argv[0], &rt->main);
	if (!r)
		r = add_spare(rt, argv[1]);
	if (!r)
		r = options(rt, argc - 2, argv + 2);
	if (!r)
		r = check_managed(rt, rt->hold_ms != UINT_MAX);
	if (rt->hold_ms == UINT_MAX)
		rt->hold_ms = REMAP_HOLD_MS;
	return r ?: check_sizes(rt);
}

void remap_config_free(struct remap_target *rt)
{
	unsigned int i;

	for (i = 0; i < rt->limits.spares; i++)
		dm_put_device(rt->ti, rt->spare[i]);
	if (rt->main)
		dm_put_device(rt->ti, rt->main);
	kfree(rt->options);
}
