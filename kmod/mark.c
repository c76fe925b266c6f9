// SPDX-License-Identifier: GPL-2.0-only
/*
 * Recognise lost marks, see mark.h. Pure C: also compiled by the user-space
 * tests, which is why the two sums are here and not the kernel's. Neither is
 * on a fast path: they run only on a block that carries the magic.
 */
#include <linux/string.h>

#include "mark.h"

static u64 le(const u8 *p, int bytes)
{
	u64 v = 0;

	while (bytes--)
		v = v << 8 | p[bytes];
	return v;
}

static u64 rotl(u64 x, int b)
{
	return x << b | x >> (64 - b);
}

static void sip_round(u64 v[4])
{
	v[0] += v[1];
	v[1] = rotl(v[1], 13) ^ v[0];
	v[0] = rotl(v[0], 32);
	v[2] += v[3];
	v[3] = rotl(v[3], 16) ^ v[2];
	v[0] += v[3];
	v[3] = rotl(v[3], 21) ^ v[0];
	v[2] += v[1];
	v[1] = rotl(v[1], 17) ^ v[2];
	v[2] = rotl(v[2], 32);
}

static void sip_word(u64 v[4], u64 m)
{
	v[3] ^= m;
	sip_round(v);
	sip_round(v);
	v[0] ^= m;
}

/* SipHash-2-4 */
u64 remap_siphash(const u8 key[16], const u8 *data, size_t len)
{
	u64 k0 = le(key, 8), k1 = le(key + 8, 8);
	u64 v[4] = {
		k0 ^ 0x736f6d6570736575ULL, k1 ^ 0x646f72616e646f6dULL,
		k0 ^ 0x6c7967656e657261ULL, k1 ^ 0x7465646279746573ULL,
	};
	size_t left = len;
	int i;

	for (; left >= 8; left -= 8, data += 8)
		sip_word(v, le(data, 8));
	sip_word(v, (u64)(len & 0xff) << 56 | le(data, left));
	v[2] ^= 0xff;
	for (i = 0; i < 4; i++)
		sip_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* Castagnoli, reflected, initial and final value all ones */
u32 remap_crc32c(const u8 *data, size_t len)
{
	u32 crc = ~0U;
	int i;

	while (len--) {
		crc ^= *data++;
		for (i = 0; i < 8; i++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78U : 0);
	}
	return ~crc;
}

static bool all_zero(const u8 *p, size_t len)
{
	while (len--)
		if (*p++)
			return false;
	return true;
}

/* Is this the mark of exactly this block? Every field must match. */
bool remap_is_mark(const u8 *block, u32 block_size, u64 main, const u8 key[16])
{
	if (block_size < REMAP_MARK_SIZE)
		return false;
	return !memcmp(block, REMAP_MARK_MAGIC, 16) &&
	       le(block + 16, 4) == REMAP_MARK_VERSION &&
	       le(block + 20, 4) == block_size &&
	       le(block + 24, 8) == main &&
	       all_zero(block + 40, 468) &&
	       all_zero(block + REMAP_MARK_SIZE, block_size - REMAP_MARK_SIZE) &&
	       le(block + 508, 4) == remap_crc32c(block, 508) &&
	       le(block + 32, 8) == remap_siphash(key, block, 32);
}
