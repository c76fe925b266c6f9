// SPDX-License-Identifier: GPL-2.0-only
/*
 * Health as the interface's reference computes it:
 *
 *   100, less 5 for each error of the last hour, less 10 more if two of that
 *   hour followed each other without a success between them; never below 0.
 *
 * The reference also adds 2 for an hour without errors. No error is left to be
 * subtracted then and 100 is the most, so there is nothing to add it to.
 *
 * Pure C: also compiled by the user-space tests.
 */
#include <linux/math64.h>

#include "health.h"

#define SECOND	1000000000ULL
#define MINUTE	(60 * SECOND)
#define HOUR	(60 * MINUTE)

void remap_health_error(struct remap_health *h, u64 now)
{
	unsigned int streak = READ_ONCE(h->streak) + 1;

	h->times[h->errors++ % REMAP_HEALTH_TIMES] = now;
	WRITE_ONCE(h->streak, streak);
	if (streak > h->max_streak)
		h->max_streak = streak;
	if (streak > 1)
		h->row_ns = now;
}

/* @ios: I/O so far. Wanted at the start and then each REMAP_SAMPLE_SECONDS. */
void remap_health_sample(struct remap_health *h, u64 now, u64 ios)
{
	h->sample[h->samples++ % REMAP_SAMPLES] = (struct remap_sample){
		.ns = now, .ios = ios, .errors = h->errors,
	};
}

/*
 * The newest sample that is a minute old, or else the oldest there is. Older
 * than a minute only by one period, unless the sampler slept; see dm-remap.rst.
 */
static const struct remap_sample *minute_ago(const struct remap_health *h, u64 now)
{
	u64 i = h->samples, oldest = i > REMAP_SAMPLES ? i - REMAP_SAMPLES : 0;
	const struct remap_sample *s = &h->sample[0];

	while (i > oldest) {
		s = &h->sample[--i % REMAP_SAMPLES];
		if (now - s->ns >= MINUTE)
			break;
	}
	return s;
}

/* A write that was tried in pieces may have more errors than it is I/O. */
static unsigned int error_permille(const struct remap_health *h, u64 now, u64 ios)
{
	const struct remap_sample *s = minute_ago(h, now);
	u64 errors = h->errors - s->errors;

	ios -= s->ios;
	if (errors >= ios)
		return errors ? 1000 : 0;
	return div64_u64(errors * 1000, ios);
}

static unsigned int score(const struct remap_health *h, u64 now)
{
	unsigned int i, lost = 0;

	for (i = 0; i < REMAP_HEALTH_TIMES && i < h->errors; i++)
		if (now - h->times[i] < HOUR)
			lost += REMAP_ERROR_COST;
	if (h->max_streak > 1 && now - h->row_ns < HOUR)
		lost += REMAP_ROW_COST;
	return lost < REMAP_FULL_SCORE ? REMAP_FULL_SCORE - lost : 0;
}

/* The limits at which the reference's Nagios check warns and alarms. */
static const char *trend(unsigned int score)
{
	return score < 70 ? "CRITICAL" : score < 85 ? "WARNING" : "STABLE";
}

/* @ios: I/O so far. */
void remap_health_report(const struct remap_health *h, u64 now, u64 ios,
			 struct remap_report *r)
{
	r->score = score(h, now);
	r->permille = error_permille(h, now, ios);
	r->max_streak = h->max_streak;
	r->erred = h->errors;
	r->last_ns = h->errors ?
		now - h->times[(h->errors - 1) % REMAP_HEALTH_TIMES] : 0;
	r->trend = trend(r->score);
}
