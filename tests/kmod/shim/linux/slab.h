/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SHIM_SLAB_H
#define SHIM_SLAB_H

#include <stdlib.h>

#define GFP_KERNEL 0

/* Tests let allocations fail. */
extern int shim_fail_allocations;

static inline void *kvmalloc(size_t size, int gfp)
{
	(void)gfp;
	return shim_fail_allocations ? NULL : malloc(size);
}

static inline void kvfree(const void *p)
{
	free((void *)p);
}

#endif
