/* SPDX-License-Identifier: GPL-2.0-only */
/* Message argument parsers. Pure C, like table.h. */
#ifndef REMAP_ARGS_H
#define REMAP_ARGS_H

#include <linux/types.h>

#include "table.h"

#define REMAP_KEY_SIZE 16

int remap_parse_u64(const char *s, u64 *v);
int remap_parse_range(const char *s, u64 min, u64 max, u64 *v);
int remap_parse_hex64(const char *s, u64 *v);
int remap_parse_key(const char *s, u8 key[REMAP_KEY_SIZE]);

u64 remap_count_load(const char *s);
int remap_parse_load(const char *s, struct remap_entry *e, u64 n);

#endif
