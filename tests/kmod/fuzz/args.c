// SPDX-License-Identifier: GPL-2.0-only
/*
 * The parsers of message arguments, against others that are written as naively
 * as can be. The first byte of an input picks the parser, the rest is its word.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <linux/limits.h>

#include "args.h"

#define CHECK(c) do { if (!(c)) { fprintf(stderr, "not so: %s\n", #c); abort(); } } while (0)

static bool all_of(const char *s, size_t n, const char *chars)
{
	for (size_t i = 0; i < n; i++)
		if (!s[i] || !strchr(chars, s[i]))
			return false;
	return true;
}

/* 0, -EINVAL: no number, -ERANGE: one that is larger than @max */
static int naive_number(const char *s, size_t n, u64 max, u64 *v)
{
	unsigned __int128 x = 0;

	if (!n || !all_of(s, n, "0123456789"))
		return -EINVAL;
	for (size_t i = 0; i < n; i++)
		if (x <= max)
			x = x * 10 + (s[i] - '0');
	if (x > max)
		return -ERANGE;
	*v = x;
	return 0;
}

/* What is wrong in two ways may be refused for either. */
static void check_refusal(const char *s, int naive, int r)
{
	if (naive == -ERANGE)
		CHECK(r == -ERANGE);
	else if (*s < '0' || *s > '9')
		CHECK(r == -EINVAL);
	else
		CHECK(r == -EINVAL || r == -ERANGE);
}

static void number(const char *s)
{
	u64 want = 0, got = 4711;
	int naive = naive_number(s, strlen(s), U64_MAX, &want), r = remap_parse_u64(s, &got);

	if (!naive) {
		CHECK(!r && got == want);
	} else {
		CHECK(got == 4711);
		check_refusal(s, naive, r);
	}
}

/* <min> <max> <word>, the first two as 8 bytes each */
static void range(const char *s, size_t size)
{
	u64 min, max, want = 0, got = 4711;
	int naive, r;

	if (size < 16)
		return;
	memcpy(&min, s, 8);
	memcpy(&max, s + 8, 8);
	s += 16;
	naive = naive_number(s, strlen(s), U64_MAX, &want);
	if (!naive && (want < min || want > max))
		naive = -ERANGE;
	r = remap_parse_range(s, min, max, &got);
	if (!naive) {
		CHECK(!r && got == want);
	} else {
		CHECK(got == 4711);
		check_refusal(s, naive, r);
	}
}

#define HEX "0123456789abcdefABCDEF"

static void hex64(const char *s)
{
	u64 got = 4711;
	int r = remap_parse_hex64(s, &got);

	if (strlen(s) == 16 && all_of(s, 16, HEX))
		CHECK(!r && got == strtoull(s, NULL, 16));
	else
		CHECK(r == -EINVAL && got == 4711);
}

static void key(const char *s)
{
	u8 got[REMAP_KEY_SIZE], before[REMAP_KEY_SIZE];
	int r;

	memset(got, 0x5a, sizeof(got));
	memcpy(before, got, sizeof(got));
	r = remap_parse_key(s, got);
	if (strlen(s) != 32 || !all_of(s, 32, HEX)) {
		CHECK(r == -EINVAL && !memcmp(got, before, sizeof(got)));
		return;
	}
	CHECK(!r);
	for (int i = 0; i < 16; i++) {
		char two[3] = { s[2 * i], s[2 * i + 1] };

		CHECK(got[i] == strtoul(two, NULL, 16));
	}
}

static bool naive_entry(const char *s, size_t n, struct remap_entry *e)
{
	static const u64 max[5] = { U64_MAX, U64_MAX, U32_MAX, U16_MAX, REMAP_MARKED };
	u64 v[5];

	for (int i = 0; i < 5; i++) {
		const char *colon = memchr(s, ':', n);
		size_t field = colon ? (size_t)(colon - s) : n;

		if ((i < 4) != !!colon || naive_number(s, field, max[i], &v[i]))
			return false;
		s += field + (i < 4);
		n -= field + (i < 4);
	}
	e->main = v[0];
	e->spare = v[1];
	e->len = v[2];
	e->index = v[3];
	e->flags = v[4];
	return true;
}

static bool same(const struct remap_entry *a, const struct remap_entry *b)
{
	return a->main == b->main && a->spare == b->spare && a->len == b->len &&
	       a->index == b->index && a->flags == b->flags;
}

static void load(const char *s)
{
	u64 commas = 0, n = remap_count_load(s);
	struct remap_entry *e;
	bool good = true;
	int r;

	for (const char *p = s; *p; p++)
		commas += *p == ',';
	CHECK(n == commas + 1);
	/* Exactly as many: ASan sees one too many. */
	e = malloc(n * sizeof(*e));
	r = remap_parse_load(s, e, n);
	CHECK(r == 0 || r == -EINVAL || r == -ERANGE);
	for (u64 i = 0; i < n; i++) {
		size_t len = strcspn(s, ",");
		struct remap_entry want;

		if (!naive_entry(s, len, &want))
			good = false;
		else if (!r)
			CHECK(same(&want, &e[i]));
		s += len + !!s[len];
	}
	CHECK(good == !r);
	free(e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *s;

	if (!size)
		return 0;
	s = malloc(size);
	memcpy(s, data + 1, size - 1);
	s[size - 1] = '\0';
	switch (data[0] % 5) {
	case 0:
		number(s);
		break;
	case 1:
		range(s, size - 1);
		break;
	case 2:
		hex64(s);
		break;
	case 3:
		key(s);
		break;
	case 4:
		load(s);
		break;
	}
	free(s);
	return 0;
}
