// SPDX-License-Identifier: GPL-2.0-only
/*
 * The pure parts of kmod/ in user space: examples, then the table against a
 * naive one, sector by sector, under random changes.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <linux/limits.h>
#include <linux/slab.h>

#include "args.h"
#include "health.h"
#include "mark.h"
#include "table.h"

int shim_fail_allocations;

static int passed, failed, bad;

#define CHECK(c)							\
	do {								\
		if (!(c)) {						\
			printf("  %s:%d: %s\n", __FILE__, __LINE__, #c);\
			bad++;						\
		}							\
	} while (0)

static void run(const char *name, void (*test)(void))
{
	bad = 0;
	test();
	printf("%s %s\n", bad ? "FAIL" : "ok", name);
	if (bad)
		failed++;
	else
		passed++;
}

/* ---- parsers ---- */

static void test_numbers(void)
{
	static const struct { const char *s; int r; u64 v; } t[] = {
		{ "0", 0, 0 }, { "7", 0, 7 }, { "00012", 0, 12 },
		{ "18446744073709551615", 0, U64_MAX },
		{ "18446744073709551616", -ERANGE, 0 },
		{ "18446744073709551620", -ERANGE, 0 },
		{ "99999999999999999999", -ERANGE, 0 },
		{ "", -EINVAL, 0 }, { "-1", -EINVAL, 0 }, { "+1", -EINVAL, 0 },
		{ " 1", -EINVAL, 0 }, { "1 ", -EINVAL, 0 }, { "0x10", -EINVAL, 0 },
		{ "1e3", -EINVAL, 0 }, { "1\n", -EINVAL, 0 }, { "a", -EINVAL, 0 },
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		u64 v = 4711;

		CHECK(remap_parse_u64(t[i].s, &v) == t[i].r);
		CHECK(v == (t[i].r ? 4711 : t[i].v));
	}
}

static void test_number_ranges(void)
{
	u64 v = 4711;

	CHECK(remap_parse_range("9", 10, 20, &v) == -ERANGE);
	CHECK(remap_parse_range("21", 10, 20, &v) == -ERANGE);
	CHECK(remap_parse_range("x", 10, 20, &v) == -EINVAL);
	CHECK(v == 4711);
	CHECK(!remap_parse_range("10", 10, 20, &v) && v == 10);
	CHECK(!remap_parse_range("20", 10, 20, &v) && v == 20);
}

static void test_hex(void)
{
	u64 v = 0;
	u8 key[16];

	CHECK(!remap_parse_hex64("0123456789abcDEF", &v));
	CHECK(v == 0x0123456789abcdefULL);
	CHECK(remap_parse_hex64("0123456789abcde", &v) == -EINVAL);
	CHECK(remap_parse_hex64("0123456789abcdef0", &v) == -EINVAL);
	CHECK(remap_parse_hex64("0x23456789abcdef", &v) == -EINVAL);
	CHECK(remap_parse_hex64("", &v) == -EINVAL);
	memset(key, 0xee, sizeof(key));
	CHECK(remap_parse_key("000102030405060708090a0b0c0d0e0", key) == -EINVAL);
	CHECK(remap_parse_key("000102030405060708090a0b0c0d0e0f0", key) == -EINVAL);
	CHECK(remap_parse_key("", key) == -EINVAL);
	CHECK(remap_parse_key("0", key) == -EINVAL);
	CHECK(key[0] == 0xee);
	CHECK(!remap_parse_key("000102030405060708090a0b0c0d0e0f", key));
	for (int i = 0; i < 16; i++)
		CHECK(key[i] == i);
}

static void test_load_words(void)
{
	static const char *const wrong[] = {
		"", "1", "1:2:3:4", "1:2:3:4:", "1:2:3:0:0:", "1:2:3:0:0,",
		",1:2:3:0:0", "1:2:3:0:0,,4:5:6:0:0", "1:2:3:0:0;4:5:6:0:0",
		":2:3:0:0", "1:2:-3:0:0", "1: 2:3:0:0", "1:2:3:0:0 ",
	};
	static const char *const large[] = {
		"1:2:4294967296:0:0", "1:2:3:65536:0", "1:2:3:0:2",
		"18446744073709551616:2:3:0:0",
	};
	struct remap_entry e[4];

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		CHECK(remap_count_load(wrong[i]) <= 4);
		CHECK(remap_parse_load(wrong[i], e, remap_count_load(wrong[i])) == -EINVAL);
	}
	for (size_t i = 0; i < sizeof(large) / sizeof(large[0]); i++)
		CHECK(remap_parse_load(large[i], e, 1) == -ERANGE);
	CHECK(remap_count_load("1:2:3:0:0,4:5:6:1:1") == 2);
	CHECK(!remap_parse_load("1:2:3:0:0,4:5:6:1:1", e, 2));
	CHECK(e[0].main == 1 && e[0].spare == 2 && e[0].len == 3 && !e[0].index && !e[0].flags);
	CHECK(e[1].main == 4 && e[1].spare == 5 && e[1].len == 6 && e[1].index == 1 && e[1].flags == 1);
}

/* Any bytes: no crash, and what is accepted prints back to the same words. */
static u64 rnd_state = 1;

static u64 rnd(u64 below)
{
	rnd_state = rnd_state * 6364136223846793005ULL + 1442695040888963407ULL;
	return (rnd_state >> 33) % below;
}

static void test_load_fuzz(void)
{
	static const char alphabet[] = "0123456789:,:,-x ";

	rnd_state = 42;
	for (int round = 0; round < 200000; round++) {
		struct remap_entry e[64];
		char s[40], *exact;
		size_t len = rnd(sizeof(s));
		u64 n;

		for (size_t i = 0; i < len; i++)
			s[i] = alphabet[rnd(sizeof(alphabet) - 1)];
		s[len] = 0;
		/* Exactly sized, so that ASan sees a read behind the end. */
		exact = strdup(s);
		n = remap_count_load(exact);
		CHECK(n <= 64);
		remap_parse_load(exact, e, n);
		free(exact);
	}
}

/* ---- marks ---- */

static void test_siphash_vectors(void)
{
	/* From the SipHash paper: key 00..0f, messages of 0..7 bytes 00, 01, … */
	static const u64 want[] = {
		0x726fdb47dd0e0e31ULL, 0x74f839c593dc67fdULL,
		0x0d6c8009d9a94f5aULL, 0x85676696d7fb7e2dULL,
		0xcf2794e0277187b7ULL, 0x18765564cd99a68dULL,
		0xcbc9466e58fee3ceULL, 0xab0200f58b01d137ULL,
		0x93f5f5799a932462ULL,
	};
	u8 key[16], msg[16];

	for (int i = 0; i < 16; i++)
		key[i] = msg[i] = i;
	for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++)
		CHECK(remap_siphash(key, msg, i) == want[i]);
	CHECK(remap_siphash(key, msg, 15) == 0xa129ca6149be45e5ULL);
}

static void test_crc32c_vectors(void)
{
	u8 b[32];

	CHECK(remap_crc32c((const u8 *)"123456789", 9) == 0xe3069283);
	memset(b, 0, sizeof(b));
	CHECK(remap_crc32c(b, 32) == 0x8a9136aa);
	memset(b, 0xff, sizeof(b));
	CHECK(remap_crc32c(b, 32) == 0x62a8ab43);
}

static void put(u8 *p, u64 v, int bytes)
{
	for (; bytes--; v >>= 8)
		*p++ = v;
}

static void make_mark(u8 *b, u32 size, u64 main, const u8 *key)
{
	memset(b, 0, size);
	memcpy(b, "remap-guard LOST", 16);
	put(b + 16, 1, 4);
	put(b + 20, size, 4);
	put(b + 24, main, 8);
	put(b + 32, remap_siphash(key, b, 32), 8);
	put(b + 508, remap_crc32c(b, 508), 4);
}

static void test_marks(void)
{
	u8 key[16] = "sixteen bytes ..", other[16] = "sixteen bytes .!";
	u8 *b = malloc(4096);

	for (u32 size = 512; size <= 4096; size *= 8) {
		make_mark(b, size, 0x1122334455667788ULL, key);
		CHECK(remap_is_mark(b, size, 0x1122334455667788ULL, key));
		CHECK(!remap_is_mark(b, size, 0x1122334455667789ULL, key));
		CHECK(!remap_is_mark(b, size, 0x1122334455667788ULL, other));
		for (u32 bit = 0; bit < size * 8; bit++) {
			b[bit / 8] ^= 1 << bit % 8;
			CHECK(!remap_is_mark(b, size, 0x1122334455667788ULL, key));
			b[bit / 8] ^= 1 << bit % 8;
		}
	}
	/* A mark of a 512 byte block is not one of a 4096 byte block. */
	make_mark(b, 512, 8, key);
	memset(b + 512, 0, 4096 - 512);
	CHECK(!remap_is_mark(b, 4096, 8, key));
	CHECK(!remap_is_mark(b, 256, 8, key));
	free(b);
}

/* ---- health ---- */

#define SECOND 1000000000ULL
#define HOUR (3600 * SECOND)

static struct remap_report report(const struct remap_health *h, u64 now, u64 ios)
{
	struct remap_report r;

	remap_health_report(h, now, ios, &r);
	return r;
}

static void test_score(void)
{
	struct remap_health h = { 0 };
	struct remap_report r = report(&h, 0, 0);
	u64 t = 5 * HOUR;

	CHECK(r.score == 100 && !r.erred && !r.max_streak && !strcmp(r.trend, "STABLE"));
	/* A success between any two: five each, and no more. */
	for (unsigned int i = 1; i <= 3; i++) {
		remap_health_error(&h, t + i * SECOND);
		h.streak = 0;
		CHECK(report(&h, t + i * SECOND, 0).score == 100 - 5 * i);
	}
	r = report(&h, t + 48 * SECOND, 0);
	CHECK(r.score == 85 && !strcmp(r.trend, "STABLE"));
	CHECK(r.erred && r.last_ns == 45 * SECOND && r.max_streak == 1);
	/* Two in a row: ten more, once. */
	remap_health_error(&h, t + 10 * SECOND);
	CHECK(!strcmp(report(&h, t + 10 * SECOND, 0).trend, "WARNING"));
	remap_health_error(&h, t + 20 * SECOND);
	r = report(&h, t + 20 * SECOND, 0);
	CHECK(r.score == 65 && r.max_streak == 2 && !strcmp(r.trend, "CRITICAL"));
	remap_health_error(&h, t + 20 * SECOND);
	CHECK(report(&h, t + 20 * SECOND, 0).score == 60);
	/* Each leaves after its hour, the row with its last error. */
	CHECK(report(&h, t + HOUR, 0).score == 60);
	CHECK(report(&h, t + HOUR + 3 * SECOND, 0).score == 75);
	CHECK(report(&h, t + HOUR + 20 * SECOND - 1, 0).score == 80);
	r = report(&h, t + HOUR + 20 * SECOND, 0);
	CHECK(r.score == 100 && r.max_streak == 3 && r.last_ns == HOUR);
}

static void test_score_ends_at_zero(void)
{
	struct remap_health h = { 0 };

	for (unsigned int i = 1; i <= 1000; i++) {
		remap_health_error(&h, i);
		h.streak = 0;
		CHECK(report(&h, 1000, 0).score == (i < 20 ? 100 - 5 * i : 0));
	}
	CHECK(h.errors == 1000 && h.max_streak == 1);
	CHECK(report(&h, 1000 + HOUR, 0).score == 100);
}

static void test_error_rate(void)
{
	struct remap_health h = { 0 };
	u64 ios = 0;

	remap_health_sample(&h, 0, 0);
	CHECK(!report(&h, 1, 0).permille);
	CHECK(!report(&h, 1, 1000).permille);
	remap_health_error(&h, 1);
	CHECK(report(&h, 1, 1000).permille == 1);
	CHECK(report(&h, 1, 2).permille == 500);
	/* Never above 100 %, although a write may fail in pieces. */
	CHECK(report(&h, 1, 1).permille == 1000);
	CHECK(report(&h, 1, 0).permille == 1000);
	/* 100 I/O a second; 100 errors in the first second, 60 behind 130 s. */
	for (int i = 1; i < 100; i++)
		remap_health_error(&h, 1);
	for (u64 s = 10; s <= 130; s += 10) {
		ios = s * 100;
		CHECK(report(&h, s * SECOND - 1, ios).permille == (s <= 70 ? 1000 / s : 0));
		remap_health_sample(&h, s * SECOND, ios);
	}
	for (int i = 0; i < 60; i++)
		remap_health_error(&h, 131 * SECOND);
	/* Over the 7000 since 70 s, which is the newest sample of a minute ago. */
	CHECK(report(&h, 139 * SECOND, ios + 1000).permille == 60000 / 7000);
	/* The sampler slept: the last sample it took is what there is. */
	CHECK(report(&h, 10000 * SECOND, ios + 2000).permille == 30);
}

/* ---- the table ---- */

static const struct remap_limits limits = {
	.main_len = 1000, .spares = 2, .spare_len = { 600, 300 },
	.head = 10, .tail = 20, .align = 1,
};

static int check(u64 main, u64 spare, u32 len, u16 index)
{
	struct remap_entry e = { main, spare, len, index, 0 };

	return remap_entry_check(&limits, &e);
}

static void test_entry_check(void)
{
	struct remap_limits l = limits;
	struct remap_entry e = { 8, 16, 8, 0, 0 };

	CHECK(check(0, 10, 1, 0) == 0);
	CHECK(check(0, 10, 0, 0) == -EINVAL);
	CHECK(check(0, 10, 1, 2) == -ENODEV);
	CHECK(check(999, 10, 1, 0) == 0);
	CHECK(check(999, 10, 2, 0) == -ERANGE);
	CHECK(check(1000, 10, 1, 0) == -ERANGE);
	CHECK(check(U64_MAX, 10, 1, 0) == -ERANGE);
	CHECK(check(U64_MAX - 5, 10, 10, 0) == -ERANGE);
	CHECK(check(0, U64_MAX, 1, 0) == -ERANGE);
	CHECK(check(0, U64_MAX - 5, 10, 0) == -ERANGE);
	CHECK(check(0, 9, 1, 0) == -ERANGE);
	CHECK(check(0, 579, 1, 0) == 0);
	CHECK(check(0, 579, 2, 0) == -ERANGE);
	CHECK(check(0, 580, 1, 0) == -ERANGE);
	CHECK(check(0, 279, 1, 1) == 0);
	CHECK(check(0, 280, 1, 1) == -ERANGE);
	CHECK(check(0, 10, U32_MAX, 0) == -ERANGE);
	l.align = 8;
	CHECK(remap_entry_check(&l, &e) == 0);
	e.main = 9;
	CHECK(remap_entry_check(&l, &e) == -EINVAL);
	e.main = 8, e.spare = 17;
	CHECK(remap_entry_check(&l, &e) == -EINVAL);
	e.spare = 16, e.len = 9;
	CHECK(remap_entry_check(&l, &e) == -EINVAL);
	/* A reserve larger than the spare leaves nothing. */
	l = limits;
	l.tail = U64_MAX;
	e = (struct remap_entry){ 0, 10, 1, 0, 0 };
	CHECK(remap_entry_check(&l, &e) == -ERANGE);
	l.tail = 0, l.head = U64_MAX;
	CHECK(remap_entry_check(&l, &e) == -ERANGE);
	e.flags = 2;
	CHECK(check(0, 10, 1, 0) == 0 && remap_entry_check(&limits, &e) == -EINVAL);
}

static int add(struct remap_table *t, u64 main, u64 spare, u32 len, u16 index)
{
	struct remap_entry e = { main, spare, len, index, 0 };

	return remap_table_add(t, &e);
}

/* What adding it would answer. */
static int try_add(struct remap_table *t, u64 main, u64 spare, u32 len, u16 index)
{
	int r = add(t, main, spare, len, index);

	if (!r)
		CHECK(!remap_table_remove(t, main));
	return r;
}

static void test_overlaps(void)
{
	struct remap_table t;
	u64 next;

	CHECK(!remap_table_init(&t, 64));
	CHECK(!remap_table_find(&t, 5, 100, &next) && next == 105);
	CHECK(!add(&t, 100, 200, 50, 0));
	CHECK(try_add(&t, 149, 300, 1, 0) == -EEXIST);
	CHECK(try_add(&t, 150, 300, 1, 0) == 0);
	CHECK(try_add(&t, 99, 300, 1, 0) == 0);
	CHECK(try_add(&t, 99, 300, 2, 0) == -EEXIST);
	CHECK(try_add(&t, 50, 300, 200, 0) == -EEXIST);
	CHECK(try_add(&t, 300, 199, 1, 0) == 0);
	CHECK(try_add(&t, 300, 199, 2, 0) == -EEXIST);
	CHECK(try_add(&t, 300, 249, 1, 0) == -EEXIST);
	CHECK(try_add(&t, 300, 249, 1, 1) == 0);
	CHECK(try_add(&t, 300, 250, 1, 0) == 0);
	/* Replaced, also by a longer one and onto its own old place. */
	CHECK(!add(&t, 100, 210, 60, 0));
	CHECK(t.count == 1 && remap_table_at(&t, 100)->spare == 210);
	CHECK(!add(&t, 160, 270, 10, 0));
	CHECK(add(&t, 100, 210, 61, 0) == -EEXIST);
	CHECK(add(&t, 100, 265, 10, 0) == -EEXIST);
	CHECK(remap_table_find(&t, 159, 100, &next)->main == 100 && next == 160);
	CHECK(!remap_table_find(&t, 99, 100, &next) && next == 100);
	CHECK(!remap_table_find(&t, 99, 1, &next) && next == 100);
	CHECK(!remap_table_find(&t, 170, 7, &next) && next == 177);
	CHECK(!remap_table_at(&t, 159) && !remap_table_at(&t, 170));
	remap_table_free(&t);
}

/* Entries of every size of region, across the ends of regions, on large devices. */
static void test_levels(void)
{
	const u64 mib = 2048, tib = 1ULL << 31;
	struct remap_table t;
	u64 next;

	CHECK(!remap_table_init(&t, 64));
	CHECK(!add(&t, mib - 4, 0, 8, 0));
	CHECK(!add(&t, 10 * mib, mib, mib, 0));
	CHECK(!add(&t, 20 * mib, 4 * mib, mib + 1, 0));
	CHECK(!add(&t, 5 * tib - 7, 1 * tib, U32_MAX, 0));
	CHECK(!add(&t, 5 * tib + U32_MAX, 50 * tib, 8, 7));
	CHECK(remap_table_find(&t, mib - 1, 100, &next)->main == mib - 4 && next == mib + 4);
	CHECK(remap_table_find(&t, mib, 2, &next)->main == mib - 4 && next == mib + 2);
	CHECK(!remap_table_find(&t, mib + 4, U32_MAX, &next) && next == 10 * mib);
	CHECK(!remap_table_find(&t, 11 * mib, U32_MAX, &next) && next == 20 * mib);
	CHECK(!remap_table_find(&t, 5 * tib - 9, 1, &next) && next == 5 * tib - 8);
	CHECK(!remap_table_find(&t, 5 * tib - 9, 1000, &next) && next == 5 * tib - 7);
	CHECK(remap_table_find(&t, 6 * tib, 1, &next)->spare == 1 * tib);
	CHECK(remap_table_find(&t, 5 * tib + U32_MAX, 9, &next)->index == 7 && next == 5 * tib + U32_MAX + 8);
	/* A small one inside a large one's range, on either side. */
	CHECK(add(&t, 6 * tib, 60 * tib, 1, 0) == -EEXIST);
	CHECK(add(&t, 20 * mib + 5, 60 * tib, 1, 0) == -EEXIST);
	CHECK(add(&t, 40 * mib, 4 * mib + 77, 1, 0) == -EEXIST);
	CHECK(add(&t, 4 * tib, 60 * tib, U32_MAX, 0) == -EEXIST);
	CHECK(!remap_table_remove(&t, 5 * tib - 7));
	CHECK(!add(&t, 6 * tib, 1 * tib, 1, 0));
	/* The same first sector, from one size of region to another. */
	CHECK(!add(&t, 20 * mib, 4 * mib, 1, 0));
	CHECK(!remap_table_find(&t, 20 * mib + 1, 5, &next));
	CHECK(!add(&t, 20 * mib, 4 * mib, 3 * mib, 0));
	CHECK(remap_table_find(&t, 22 * mib + 1, 5, &next)->len == 3 * mib);
	CHECK(t.count == 5);
	remap_table_free(&t);
}

/* Whatever allocation fails: -ENOMEM, nothing changed, nothing leaked. */
static void test_no_memory(void)
{
	struct remap_entry e[3] = { { 2040, 0, 16, 0, 0 }, { 3000, 500, 8, 0, 1 }, { 9000, 600, 8, 1, 0 } };
	struct remap_table t;
	u64 sum;
	int i, r;

	CHECK(!remap_table_init(&t, 64));
	CHECK(!add(&t, 100, 200, 50, 0));
	CHECK(!add(&t, 2000, 4090, 16, 0));
	sum = t.checksum;
	shim_fail_allocations = -1;
	CHECK(remap_table_sort(&t) == -ENOMEM);
	CHECK(remap_table_clear(&t) == -ENOMEM);
	CHECK(remap_table_remove(&t, 100) == -ENOMEM);
	CHECK(remap_index_resize(&t.main, 128) == -ENOMEM);
	for (i = 1; i < 100; i++) {
		shim_fail_allocations = i;
		r = remap_table_load(&t, e, 3);
		if (!r)
			break;
		CHECK(r == -ENOMEM && t.count == 2 && t.checksum == sum && t.used == 1);
	}
	CHECK(i > 10 && i < 100);
	for (i = 1; i < 100; i++) {
		shim_fail_allocations = i;
		r = add(&t, 2000, 4090, 30, 1);
		if (!r)
			break;
		CHECK(r == -ENOMEM && remap_table_at(&t, 2000)->len == 16);
	}
	CHECK(i > 5 && i < 100);
	shim_fail_allocations = 0;
	CHECK(t.count == 5);
	remap_table_free(&t);
}

static void test_checksum(void)
{
	/* The value that the daemon has to arrive at for the same entries. */
	struct remap_entry e[2] = { { 1000, 5000, 64, 0, 0 }, { 2000, 6000, 8, 1, 1 } };
	struct remap_table t;

	CHECK(!remap_table_init(&t, 64));
	CHECK(t.checksum == 0);
	CHECK(!remap_table_load(&t, e, 2));
	CHECK(t.checksum == remap_entry_hash(&e[0]) + remap_entry_hash(&e[1]));
	CHECK(t.marked == 1);
	CHECK(remap_entry_hash(&e[0]) == 0x46cbea4e4d7f747aULL);
	CHECK(remap_entry_hash(&e[1]) == 0xab7f462529ee6d75ULL);
	CHECK(!remap_table_remove(&t, 1000));
	CHECK(t.checksum == remap_entry_hash(&e[1]));
	CHECK(!remap_table_clear(&t));
	CHECK(!t.count && !t.checksum && !t.marked && !t.used);
	remap_table_free(&t);
}

/* Buckets follow the count, one step for one message, many for a load. */
static void test_sizes(void)
{
	struct remap_entry *e = calloc(100000, sizeof(*e));
	struct remap_table t;
	u64 i;

	for (i = 0; i < 100000; i++)
		e[i] = (struct remap_entry){ i * 100, i * 50, 50, 0, 0 };
	CHECK(!remap_table_init(&t, 64));
	for (i = 0; i < 200; i++) {
		CHECK(!remap_table_add(&t, &e[i]) && !remap_table_grow(&t));
		CHECK(t.size == (i < 96 ? 64 : i < 192 ? 128 : 256));
	}
	while (i--) {
		CHECK(!remap_table_remove(&t, e[i].main) && !remap_table_shrink(&t));
		CHECK(t.size == (i >= 128 ? 256 : i >= 64 ? 128 : 64));
	}
	CHECK(!remap_table_load(&t, e, 100000));
	CHECK(t.size == 131072 && t.count == 100000);
	CHECK(!remap_table_sort(&t));
	CHECK(remap_table_from(&t, 0) == 0 && remap_table_from(&t, 101) == 2);
	CHECK(remap_table_from(&t, U64_MAX) == 100000);
	for (i = 0; i < 100000; i++)
		CHECK(t.sorted[i]->main == e[i].main);
	remap_table_collect(&t);
	CHECK(t.sorted);
	remap_table_collect(&t);
	CHECK(!t.sorted);
	CHECK(!remap_table_clear(&t) && t.size == 64);
	remap_table_free(&t);
	free(e);
}

/* ---- the table against a naive one ---- */

#define MAIN 400
#define SPARE 300

/* Sector 0 of the model on main. */
static u64 origin;

static u64 at(u64 sector)
{
	return origin + sector;
}

struct model {
	int to[MAIN];			/* index * SPARE + spare sector, or -1 */
	u64 first[MAIN];		/* first sector of the entry */
	bool used[2][SPARE];
	u64 count;
};

static bool model_remove(struct model *m, u64 main)
{
	if (main >= MAIN || m->to[main] < 0 || m->first[main] != main)
		return false;
	for (u64 s = main; s < MAIN && m->to[s] >= 0 && m->first[s] == main; s++) {
		m->used[m->to[s] / SPARE][m->to[s] % SPARE] = false;
		m->to[s] = -1;
	}
	m->count--;
	return true;
}

static bool model_add(struct model *m, const struct remap_entry *e, bool replace)
{
	struct model old = *m;

	if (replace)
		model_remove(m, e->main);
	for (u64 i = 0; i < e->len; i++) {
		if (m->to[e->main + i] >= 0 || m->used[e->index][e->spare + i]) {
			*m = old;
			return false;
		}
	}
	for (u64 i = 0; i < e->len; i++) {
		m->to[e->main + i] = e->index * SPARE + e->spare + i;
		m->first[e->main + i] = e->main;
		m->used[e->index][e->spare + i] = true;
	}
	m->count++;
	return true;
}

static void compare(const struct model *m, struct remap_table *t)
{
	u64 sum = 0, covered = 0, next, len;
	u32 used = 0;

	CHECK(t->count == m->count);
	for (u64 s = 0; s < MAIN; s++) {
		const struct remap_entry *e;
		u64 end = s;

		len = 1 + rnd(MAIN - s);
		e = remap_table_find(t, at(s), at(s + len - 1) + 1 - at(s), &next);
		CHECK(next > at(s));
		if (!e) {
			while (end < s + len && m->to[end] < 0)
				end++;
			CHECK(m->to[s] < 0);
			CHECK(next == (end == s + len ? at(end - 1) + 1 : at(end)));
			continue;
		}
		while (end < s + len && m->to[end] >= 0 && m->first[end] == m->first[s])
			end++;
		CHECK(m->to[s] == (int)(e->index * SPARE + e->spare + (at(s) - e->main)));
		CHECK(next == at(end - 1) + 1);
		covered++;
	}
	CHECK(!remap_table_sort(t));
	for (u64 i = 0; i < t->count; i++) {
		const struct remap_entry *e = t->sorted[i];

		sum += remap_entry_hash(e);
		covered -= e->len;
		used |= 1U << e->index;
		CHECK(!i || t->sorted[i - 1]->main + t->sorted[i - 1]->len <= e->main);
	}
	CHECK(!covered);
	CHECK(sum == t->checksum);
	CHECK(used == t->used);
}

static void random_entry(struct remap_entry *e)
{
	e->len = 1 + rnd(rnd(4) ? 6 : 60);
	e->main = rnd(MAIN - e->len + 1);
	e->spare = rnd(SPARE - e->len + 1);
	e->index = rnd(2);
	e->flags = rnd(2);
}

/* Each entry as the table gets it: around the end of a region. */
static struct remap_entry placed(struct remap_entry e)
{
	e.main = at(e.main);
	return e;
}

static int step_load(struct model *m, struct remap_table *t)
{
	struct remap_entry e[5];
	struct model old = *m;
	u64 n = 1 + rnd(5);
	bool fits = true;
	int r;

	for (u64 i = 0; i < n; i++) {
		random_entry(&e[i]);
		fits = fits && model_add(m, &e[i], false);
		e[i] = placed(e[i]);
	}
	if (!fits)
		*m = old;
	r = remap_table_load(t, e, n);
	CHECK(r == (fits ? 0 : -EEXIST));
	return r;
}

static void step(struct model *m, struct remap_table *t)
{
	struct remap_entry e, p;

	random_entry(&e);
	p = placed(e);
	switch (rnd(8)) {
	case 0:
		step_load(m, t);
		break;
	case 1:
	case 2:
		CHECK(remap_table_remove(t, p.main) == (model_remove(m, e.main) ? 0 : -ENOENT));
		break;
	case 3:
		CHECK(!remap_index_resize(&t->main, 64U << rnd(3)));
		break;
	default:
		CHECK(remap_table_add(t, &p) == (model_add(m, &e, true) ? 0 : -EEXIST));
	}
}

static void test_model(void)
{
	for (u64 seed = 1; seed <= 60; seed++) {
		struct remap_table t;
		struct model m = { 0 };

		memset(m.to, 0xff, sizeof(m.to));
		rnd_state = seed;
		/* Somewhere across the end of a region of any level. */
		origin = (1ULL << (11 + 11 * rnd(3))) * (1 + rnd(3)) - rnd(MAIN);
		CHECK(!remap_table_init(&t, 64));
		for (int i = 0; i < 400 && !bad; i++) {
			step(&m, &t);
			compare(&m, &t);
		}
		remap_table_free(&t);
	}
}

int main(void)
{
	run("numbers are parsed strictly", test_numbers);
	run("numbers outside their range are refused", test_number_ranges);
	run("hex words have their exact length", test_hex);
	run("load words", test_load_words);
	run("load words of any bytes", test_load_fuzz);
	run("SipHash-2-4 vectors", test_siphash_vectors);
	run("CRC32C vectors", test_crc32c_vectors);
	run("marks: every bit counts", test_marks);
	run("score: errors of an hour, and those in a row", test_score);
	run("score ends at zero", test_score_ends_at_zero);
	run("error rate of the last minute", test_error_rate);
	run("entries are checked without overflow", test_entry_check);
	if (remap_entries_init())
		return 1;
	run("overlaps on main and spare", test_overlaps);
	run("entries of every size, anywhere", test_levels);
	run("no memory changes nothing", test_no_memory);
	run("checksum", test_checksum);
	run("buckets follow the count", test_sizes);
	run("table against a naive model", test_model);
	remap_entries_exit();
	printf("%d passed, %d failed\n", passed, failed);
	return failed != 0;
}
