/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Lost marks: the spare sector of a lost main sector holds, instead of data,
 * the statement that its content is lost. Pure C, like table.h.
 *
 *   0  16  magic "remap-guard LOST"
 *  16   4  version, 1
 *  20   4  logical block size in bytes
 *  24   8  main sector of the block
 *  32   8  SipHash-2-4 of bytes 0..32 under the secret of the set
 *  40 468  zero
 * 508   4  CRC32C of bytes 0..508
 *
 * All numbers little endian; the rest of a block over 512 bytes is zero.
 */
#ifndef REMAP_MARK_H
#define REMAP_MARK_H

#include <linux/types.h>

#define REMAP_MARK_SIZE 512
#define REMAP_MARK_MAGIC "remap-guard LOST"
#define REMAP_MARK_VERSION 1

u64 remap_siphash(const u8 key[16], const u8 *data, size_t len);
u32 remap_crc32c(const u8 *data, size_t len);
bool remap_is_mark(const u8 *block, u32 block_size, u64 main, const u8 key[16]);

#endif
