// SPDX-License-Identifier: GPL-2.0-only
/*
 * Message argument parsers. Pure C: also compiled by the user-space tests.
 *
 * Strict on purpose: no sign, no blanks, no prefix, nothing behind the number.
 * A message that a person or a script got slightly wrong must not move sectors.
 * -EINVAL is not a number, -ERANGE is a number that does not fit.
 */
#include <linux/errno.h>
#include <linux/limits.h>
#include <linux/string.h>

#include "args.h"

/* Digits at *s up to, not including, the first other character. */
static int digits(const char **s, u64 *v)
{
	const char *p = *s;
	u64 x = 0;

	if (*p < '0' || *p > '9')
		return -EINVAL;
	for (; *p >= '0' && *p <= '9'; p++) {
		unsigned int d = *p - '0';

		if (x > U64_MAX / 10 || (x == U64_MAX / 10 && d > U64_MAX % 10))
			return -ERANGE;
		x = x * 10 + d;
	}
	*s = p;
	*v = x;
	return 0;
}

int remap_parse_u64(const char *s, u64 *v)
{
	u64 x;
	int r = digits(&s, &x);

	if (r)
		return r;
	if (*s)
		return -EINVAL;
	*v = x;
	return 0;
}

int remap_parse_range(const char *s, u64 min, u64 max, u64 *v)
{
	u64 x;
	int r = remap_parse_u64(s, &x);

	if (r)
		return r;
	if (x < min || x > max)
		return -ERANGE;
	*v = x;
	return 0;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* Exactly 16 hex digits. */
int remap_parse_hex64(const char *s, u64 *v)
{
	u64 x = 0;
	int i;

	for (i = 0; i < 16; i++) {
		int d = hex_digit(s[i]);

		if (d < 0)
			return -EINVAL;
		x = x << 4 | d;
	}
	if (s[16])
		return -EINVAL;
	*v = x;
	return 0;
}

/* Exactly 32 hex digits: the key's bytes in order. */
int remap_parse_key(const char *s, u8 key[REMAP_KEY_SIZE])
{
	u8 k[REMAP_KEY_SIZE];
	int i;

	for (i = 0; i < REMAP_KEY_SIZE; i++) {
		int hi = hex_digit(s[2 * i]), lo;

		if (hi < 0)
			return -EINVAL;
		lo = hex_digit(s[2 * i + 1]);
		if (lo < 0)
			return -EINVAL;
		k[i] = hi << 4 | lo;
	}
	if (s[2 * REMAP_KEY_SIZE])
		return -EINVAL;
	memcpy(key, k, sizeof(k));
	return 0;
}

/* How many entries a load argument has room for. */
u64 remap_count_load(const char *s)
{
	u64 n = 1;

	for (; *s; s++)
		n += *s == ',';
	return n;
}

static int load_field(const char **s, char end, u64 max, u64 *v)
{
	int r = digits(s, v);

	if (r)
		return r;
	if (*v > max)
		return -ERANGE;
	if (**s != end)
		return -EINVAL;
	if (end)
		(*s)++;
	return 0;
}

static int load_entry(const char **s, char end, struct remap_entry *e)
{
	u64 len, index, flags;
	int r;

	r = load_field(s, ':', U64_MAX, &e->main);
	if (!r)
		r = load_field(s, ':', U64_MAX, &e->spare);
	if (!r)
		r = load_field(s, ':', U32_MAX, &len);
	if (!r)
		r = load_field(s, ':', U16_MAX, &index);
	if (!r)
		r = load_field(s, end, REMAP_MARKED, &flags);
	if (r)
		return r;
	e->len = len;
	e->index = index;
	e->flags = flags;
	return 0;
}

/* main:spare:len:index:flags[,...], exactly @n of them as counted above */
int remap_parse_load(const char *s, struct remap_entry *e, u64 n)
{
	u64 i;

	for (i = 0; i < n; i++) {
		int r = load_entry(&s, i + 1 < n ? ',' : '\0', &e[i]);

		if (r)
			return r;
	}
	return 0;
}
