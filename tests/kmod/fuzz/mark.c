// SPDX-License-Identifier: GPL-2.0-only
/*
 * The recognition of lost marks: of all contents that a block can have, exactly
 * one is the mark of its sector. An input is <block size> <main> <key> and then
 * what is laid over that mark with exclusive or, so that most of it stays right.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mark.h"
#include "../lost.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *block, *mark;
	char hex[33];
	uint32_t bytes;
	uint64_t main;
	bool is;

	if (size < 25)
		return 0;
	bytes = 512u << data[0] % 4;
	memcpy(&main, data + 1, 8);
	for (int i = 0; i < 16; i++)
		sprintf(hex + 2 * i, "%02x", data[9 + i]);
	data += 25;
	size = size - 25 < bytes ? size - 25 : bytes;

	/* Of the exact size: ASan sees one byte too many. */
	block = malloc(bytes);
	mark = malloc(bytes);
	make_lost_mark(mark, bytes, main, hex);
	memcpy(block, mark, bytes);
	for (size_t i = 0; i < size; i++)
		block[i] ^= data[i];
	is = is_lost_mark(block, bytes, main, hex);
	if (is != !memcmp(block, mark, bytes)) {
		fprintf(stderr, "not so: only the mark is a mark\n");
		abort();
	}
	/* Never that of another sector, nor in a block of another size. */
	if (is && (is_lost_mark(block, bytes, main + 1, hex) || is_lost_mark(block, 511, main, hex)))
		abort();
	free(block);
	free(mark);
	return 0;
}
