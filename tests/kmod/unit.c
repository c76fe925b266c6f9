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

static struct remap_table *must(struct remap_table *old, u64 main, u64 spare, u32 len)
{
	struct remap_entry e = { main, spare, len, 0, 0 };
	struct remap_table *t = NULL;

	CHECK(!remap_table_add(old, &e, &t));
	kvfree(old);
	return t;
}

static int add_error(const struct remap_table *old, u64 main, u64 spare, u32 len, u16 index)
{
	struct remap_entry e = { main, spare, len, index, 0 };
	struct remap_table *t = NULL;
	int r = remap_table_add(old, &e, &t);

	kvfree(t);
	return r;
}

static void test_overlaps(void)
{
	struct remap_table *t;
	u64 next;

	CHECK(!remap_table_empty(&t));
	CHECK(!remap_table_find(t, 5, &next) && next == U64_MAX);
	t = must(t, 100, 200, 50);
	CHECK(add_error(t, 149, 300, 1, 0) == -EEXIST);
	CHECK(add_error(t, 150, 300, 1, 0) == 0);
	CHECK(add_error(t, 99, 300, 1, 0) == 0);
	CHECK(add_error(t, 99, 300, 2, 0) == -EEXIST);
	CHECK(add_error(t, 50, 300, 200, 0) == -EEXIST);
	CHECK(add_error(t, 300, 199, 1, 0) == 0);
	CHECK(add_error(t, 300, 199, 2, 0) == -EEXIST);
	CHECK(add_error(t, 300, 249, 1, 0) == -EEXIST);
	CHECK(add_error(t, 300, 249, 1, 1) == 0);
	CHECK(add_error(t, 300, 250, 1, 0) == 0);
	/* Replaced, also by a longer one and onto its own old place. */
	t = must(t, 100, 210, 60);
	CHECK(t->count == 1 && t->e[0].spare == 210 && t->e[0].len == 60);
	t = must(t, 160, 270, 10);
	CHECK(add_error(t, 100, 210, 61, 0) == -EEXIST);
	CHECK(add_error(t, 100, 265, 10, 0) == -EEXIST);
	CHECK(remap_table_find(t, 159, &next)->main == 100 && next == 160);
	CHECK(!remap_table_find(t, 99, &next) && next == 100);
	CHECK(!remap_table_find(t, 170, &next) && next == U64_MAX);
	kvfree(t);
}

static void test_no_memory(void)
{
	struct remap_entry e = { 1, 2, 3, 0, 0 };
	struct remap_table *t, *none = NULL;

	CHECK(!remap_table_empty(&t));
	t = must(t, 100, 200, 50);
	shim_fail_allocations = 1;
	CHECK(remap_table_empty(&none) == -ENOMEM);
	CHECK(remap_table_add(t, &e, &none) == -ENOMEM);
	CHECK(remap_table_remove(t, 100, &none) == -ENOMEM);
	CHECK(remap_table_load(t, &e, 1, &none) == -ENOMEM);
	shim_fail_allocations = 0;
	CHECK(!none);
	kvfree(t);
}

static void test_checksum(void)
{
	/* The value that the daemon has to arrive at for the same entries. */
	struct remap_entry e[2] = { { 1000, 5000, 64, 0, 0 }, { 2000, 6000, 8, 1, 1 } };
	struct remap_table *t, *a, *b;

	CHECK(!remap_table_empty(&t));
	CHECK(t->checksum == 0);
	CHECK(!remap_table_load(t, e, 2, &a));
	CHECK(a->checksum == remap_entry_hash(&e[0]) + remap_entry_hash(&e[1]));
	CHECK(a->marked == 1);
	CHECK(remap_entry_hash(&e[0]) == 0x46cbea4e4d7f747aULL);
	CHECK(remap_entry_hash(&e[1]) == 0xab7f462529ee6d75ULL);
	CHECK(!remap_table_remove(a, 1000, &b));
	CHECK(b->checksum == remap_entry_hash(&e[1]));
	kvfree(t);
	kvfree(a);
	kvfree(b);
}

/* ---- the table against a naive one ---- */

#define MAIN 400
#define SPARE 300

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

static void compare(const struct model *m, const struct remap_table *t)
{
	u64 sum = 0, covered = 0, next;
	u32 used = 0;

	CHECK(t->count == m->count);
	for (u64 s = 0; s < MAIN; s++) {
		const struct remap_entry *e = remap_table_find(t, s, &next);
		u64 end = s;

		CHECK(next > s);
		if (!e) {
			while (end < MAIN && m->to[end] < 0)
				end++;
			CHECK(m->to[s] < 0);
			CHECK(next == (end == MAIN ? U64_MAX : end));
			continue;
		}
		while (end < MAIN && m->to[end] >= 0 && m->first[end] == m->first[s])
			end++;
		CHECK(m->to[s] == (int)(e->index * SPARE + e->spare + (s - e->main)));
		CHECK(next == end);
		covered++;
	}
	for (u64 i = 0; i < t->count; i++) {
		sum += remap_entry_hash(&t->e[i]);
		covered -= t->e[i].len;
		used |= 1U << t->e[i].index;
		CHECK(!i || t->e[i - 1].main + t->e[i - 1].len <= t->e[i].main);
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

static int step_load(struct model *m, const struct remap_table *t, struct remap_table **new)
{
	struct remap_entry e[5];
	struct model old = *m;
	u64 n = 1 + rnd(5);
	bool fits = true;
	int r;

	for (u64 i = 0; i < n; i++) {
		random_entry(&e[i]);
		fits = fits && model_add(m, &e[i], false);
	}
	if (!fits)
		*m = old;
	r = remap_table_load(t, e, n, new);
	CHECK(r == (fits ? 0 : -EEXIST));
	return r;
}

static void test_model(void)
{
	for (u64 seed = 1; seed <= 60; seed++) {
		struct remap_table *t, *new;
		struct model m = { 0 };

		memset(m.to, 0xff, sizeof(m.to));
		rnd_state = seed;
		CHECK(!remap_table_empty(&t));
		for (int i = 0; i < 400 && !bad; i++) {
			struct remap_entry e;
			int r;

			random_entry(&e);
			if (rnd(8) == 0) {
				r = step_load(&m, t, &new);
			} else if (rnd(3)) {
				r = remap_table_add(t, &e, &new);
				CHECK(r == (model_add(&m, &e, true) ? 0 : -EEXIST));
			} else {
				r = remap_table_remove(t, e.main, &new);
				CHECK(r == (model_remove(&m, e.main) ? 0 : -ENOENT));
			}
			if (!r) {
				kvfree(t);
				t = new;
			}
			compare(&m, t);
		}
		kvfree(t);
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
	run("overlaps on main and spare", test_overlaps);
	run("no memory changes nothing", test_no_memory);
	run("checksum", test_checksum);
	run("table against a naive model", test_model);
	printf("%d passed, %d failed\n", passed, failed);
	return failed != 0;
}
