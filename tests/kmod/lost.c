// SPDX-License-Identifier: GPL-2.0-only
#include <string.h>

#include "args.h"
#include "lost.h"
#include "mark.h"

static void put(uint8_t *p, uint64_t v, int bytes)
{
	for (; bytes--; v >>= 8)
		*p++ = v;
}

void make_lost_mark(uint8_t *block, uint32_t size, uint64_t main, const char *key)
{
	uint8_t k[REMAP_KEY_SIZE] = { 0 };

	remap_parse_key(key, k);
	memset(block, 0, size);
	memcpy(block, REMAP_MARK_MAGIC, 16);
	put(block + 16, REMAP_MARK_VERSION, 4);
	put(block + 20, size, 4);
	put(block + 24, main, 8);
	put(block + 32, remap_siphash(k, block, 32), 8);
	put(block + 508, remap_crc32c(block, 508), 4);
}

bool is_lost_mark(const uint8_t *block, uint32_t size, uint64_t main, const char *key)
{
	uint8_t k[REMAP_KEY_SIZE] = { 0 };

	remap_parse_key(key, k);
	return remap_is_mark(block, size, main, k);
}
