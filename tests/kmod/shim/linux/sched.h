/* SPDX-License-Identifier: GPL-2.0-only */
#define cond_resched() do { } while (0)
