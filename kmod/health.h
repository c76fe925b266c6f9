/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Health of a mapped device, from the times of its errors. Pure C, like table.h.
 *
 * Times are in ns of one clock that never goes back. Who calls serialises.
 */
#ifndef REMAP_HEALTH_H
#define REMAP_HEALTH_H

#include <linux/types.h>

#define REMAP_FULL_SCORE	100
#define REMAP_ERROR_COST	5
#define REMAP_ROW_COST		10

/* With so many errors the score is 0, whatever else there was. */
#define REMAP_HEALTH_TIMES	(REMAP_FULL_SCORE / REMAP_ERROR_COST)

/* Enough to reach back over a minute, also from just before the next one. */
#define REMAP_SAMPLE_SECONDS	10
#define REMAP_SAMPLES		8

struct remap_sample {
	u64 ns;
	u64 ios;
	u64 errors;
};

struct remap_health {
	u64 errors;			/* ever */
	u64 times[REMAP_HEALTH_TIMES];	/* of the last ones, at errors % TIMES */
	u64 row_ns;			/* when one last followed another directly */
	unsigned int streak;		/* errors since the last success */
	unsigned int max_streak;
	u64 samples;			/* ever */
	struct remap_sample sample[REMAP_SAMPLES];
};

struct remap_report {
	unsigned int score;		/* 0..100 */
	unsigned int permille;		/* errors per I/O, 0..1000 */
	unsigned int max_streak;
	bool erred;			/* at all; else last_ns means nothing */
	u64 last_ns;			/* how long ago */
	const char *trend;
};

void remap_health_error(struct remap_health *h, u64 now);
void remap_health_sample(struct remap_health *h, u64 now, u64 ios);
void remap_health_report(const struct remap_health *h, u64 now, u64 ios,
			 struct remap_report *r);

#endif
