/* SPDX-License-Identifier: GPL-2.0-only */
/* Kernel differences, newest interface first. Nothing else knows of versions. */
#ifndef REMAP_COMPAT_H
#define REMAP_COMPAT_H

#include <linux/blk_types.h>

/* The status of a reservation conflict was called NEXUS before. */
#ifndef BLK_STS_RESV_CONFLICT
#define BLK_STS_RESV_CONFLICT BLK_STS_NEXUS
#endif

#endif
