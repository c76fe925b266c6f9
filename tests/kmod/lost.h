/* SPDX-License-Identifier: GPL-2.0-only */
/* Lost marks for the tests, without the kernel's types. Keys are 32 hex digits. */
#ifndef LOST_H
#define LOST_H

#include <stdbool.h>
#include <stdint.h>

void make_lost_mark(uint8_t *block, uint32_t size, uint64_t main, const char *key);
bool is_lost_mark(const uint8_t *block, uint32_t size, uint64_t main, const char *key);

#endif
