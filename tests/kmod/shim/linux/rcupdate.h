/* SPDX-License-Identifier: GPL-2.0-only */
/* One thread: every grace period has passed, and what is retired is gone at once. */
#ifndef SHIM_RCUPDATE_H
#define SHIM_RCUPDATE_H

#include <linux/slab.h>

#define rcu_dereference_check(p, c) (p)
#define rcu_dereference_protected(p, c) (p)
#define rcu_assign_pointer(p, v) ((p) = (v))
#define RCU_INIT_POINTER(p, v) ((p) = (v))
#define kvfree_rcu(p, head) kvfree(p)
#define call_rcu(head, f) f(head)

static inline void synchronize_rcu(void)
{
}

static inline void rcu_barrier(void)
{
}

#endif
