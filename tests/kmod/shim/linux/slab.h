/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SHIM_SLAB_H
#define SHIM_SLAB_H

#include <stdlib.h>

#define GFP_KERNEL 0
#define SLAB_NO_MERGE 0

/*
 * Tests let allocations fail: all of them while negative, else the one that
 * this counts down to.
 */
extern int shim_fail_allocations;

static inline int shim_allocation_fails(void)
{
	return shim_fail_allocations < 0 ||
	       (shim_fail_allocations && !--shim_fail_allocations);
}

static inline void *kvmalloc(size_t size, int gfp)
{
	(void)gfp;
	return shim_allocation_fails() ? NULL : malloc(size);
}

static inline void *kvzalloc(size_t size, int gfp)
{
	(void)gfp;
	return shim_allocation_fails() ? NULL : calloc(1, size);
}

static inline void *kvmalloc_array(size_t n, size_t size, int gfp)
{
	size_t bytes;

	return __builtin_mul_overflow(n, size, &bytes) ? NULL : kvmalloc(bytes, gfp);
}

static inline void kvfree(const void *p)
{
	free((void *)p);
}

struct kmem_cache {
	size_t size;
};

static inline struct kmem_cache *kmem_cache_create(const char *name, size_t size, size_t align,
						   unsigned int flags, void (*ctor)(void *))
{
	struct kmem_cache *c = malloc(sizeof(*c));

	(void)name, (void)align, (void)flags, (void)ctor;
	c->size = size;
	return c;
}

static inline void kmem_cache_destroy(struct kmem_cache *c)
{
	free(c);
}

static inline void *kmem_cache_alloc(struct kmem_cache *c, int gfp)
{
	return kvmalloc(c->size, gfp);
}

static inline void kmem_cache_free(struct kmem_cache *c, void *p)
{
	(void)c;
	free(p);
}

#endif
