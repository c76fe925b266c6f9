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

#include "remap.h"

#define MAX_OPTION_WORDS 40

static int get_member(struct remap_target *rt, const char *path,
		      struct dm_dev **dev)
{
	struct dm_target *ti = rt->ti;
	int r = dm_get_device(ti, path, dm_table_get_mode(ti->table), dev);

	if (r) {
		ti->error = "Device not found";
		return r;
	}
	if (bdev_is_zoned((*dev)->bdev)) {
		ti->error = "Zoned members are not supported";
		return -EINVAL;
	}
	return 0;
}

static int add_spare(struct remap_target *rt, const char *path)
{
	unsigned int i = rt->limits.spares;
	int r;

	if (i == REMAP_MAX_SPARES) {
		rt->ti->error = "Too many spares";
		return -EINVAL;
	}
	r = get_member(rt, path, &rt->spare[i]);
	if (rt->spare[i]) {
		rt->limits.spares++;
		rt->limits.spare_len[i] = bdev_nr_sectors(rt->spare[i]->bdev);
	}
	return r;
}

static int option_number(const char *word, u64 min, u64 max, unsigned int *v)
{
	u64 x;
	int r = remap_parse_range(word, min, max, &x);

	if (!r)
		*v = x;
	return r;
}

/* One option and its words; how many words it took, or an error. */
static int one_option(struct remap_target *rt, unsigned int argc, char **argv)
{
	if (!strcmp(argv[0], "small_spare")) {
		rt->small_spare = true;
		return 1;
	}
	if (!strcmp(argv[0], "managed")) {
		rt->managed = true;
		return 1;
	}
	if (!strcmp(argv[0], "reserve") && argc >= 3)
		return remap_parse_u64(argv[1], &rt->limits.head) ?:
		       remap_parse_u64(argv[2], &rt->limits.tail) ?: 3;
	if (!strcmp(argv[0], "closed") && argc >= 2)
		return option_number(argv[1], 1, REMAP_MAX_CLOSED_MS,
				     &rt->closed_ms) ?: 2;
	if (!strcmp(argv[0], "hold") && argc >= 2)
		return option_number(argv[1], 0, REMAP_MAX_HOLD_MS,
				     &rt->hold_ms) ?: 2;
	if (!strcmp(argv[0], "spare") && argc >= 2)
		return add_spare(rt, argv[1]) ?: 2;
	rt->ti->error = "Unknown option";
	return -EINVAL;
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
	u64 words;
	int r, n;

	if (!argc)
		return 0;
	r = remap_parse_range(argv[0], 0, MAX_OPTION_WORDS, &words);
	if (r || words != argc - 1) {
		rt->ti->error = "Invalid argument count";
		return -EINVAL;
	}
	r = keep_words(rt, argv, 1);
	argc--;
	argv++;
	while (!r && argc) {
		n = one_option(rt, argc, argv);
		if (n < 0) {
			rt->ti->error = rt->ti->error ?: "Invalid option value";
			return n;
		}
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
		if (rt->managed && b != block) {
			ti->error = "Members differ in logical block size";
			return -EINVAL;
		}
		rt->block_size = max(rt->block_size, b);
	}
	rt->limits.align = rt->block_size >> SECTOR_SHIFT;
	rt->limits.main_len = ti->len;
	if (ti->len > bdev_nr_sectors(rt->main->bdev)) {
		ti->error = "Main device is smaller than the target";
		return -EINVAL;
	}
	for (i = 0; i < rt->limits.spares && !rt->small_spare; i++)
		if (rt->limits.spare_len[i] < DIV_ROUND_UP_ULL(ti->len, 20)) {
			ti->error = "No space left: spare is below 5% of main";
			return -ENOSPC;
		}
	return 0;
}

static int check_managed(struct remap_target *rt, bool hold_given)
{
	if (!rt->managed && (rt->closed_ms || hold_given)) {
		rt->ti->error = "closed and hold need managed";
		return -EINVAL;
	}
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
