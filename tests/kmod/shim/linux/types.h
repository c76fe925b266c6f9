/* SPDX-License-Identifier: GPL-2.0-only */
/* Just enough of the kernel for the pure files of kmod/ to compile as they are. */
#ifndef SHIM_TYPES_H
#define SHIM_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
/* As in the kernel, so that %llu fits on every machine. */
typedef unsigned long long u64;

#define __rcu
#define READ_ONCE(x) (x)
#define WRITE_ONCE(x, v) ((x) = (v))

struct rcu_head {
	void *unused[2];
};

#endif
