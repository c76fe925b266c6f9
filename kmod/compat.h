/* SPDX-License-Identifier: GPL-2.0-only */
/* Kernel differences, newest interface first. Nothing else knows of versions. */
#ifndef REMAP_COMPAT_H
#define REMAP_COMPAT_H

#include <linux/blk_types.h>
#include <linux/slab.h>

/* The status of a reservation conflict was called NEXUS before. */
#ifndef BLK_STS_RESV_CONFLICT
#define BLK_STS_RESV_CONFLICT BLK_STS_NEXUS
#endif

/* A slab cache that is not merged with others of its size. */
#ifdef SLAB_NO_MERGE
#define remap_cache_create(name, size) \
	kmem_cache_create(name, size, 0, SLAB_NO_MERGE, NULL)
#else
/* Caches with a constructor never were. */
static inline void remap_slot_ctor(void *slot)
{
}
#define remap_cache_create(name, size) \
	kmem_cache_create(name, size, 0, 0, remap_slot_ctor)
#endif

#endif
