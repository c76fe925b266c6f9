// SPDX-License-Identifier: GPL-2.0-only
/* Those who only ask, and those who ask for what they may not have. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "torture.h"

static uint64_t mix(uint64_t x)
{
	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9ULL;
	x ^= x >> 27;
	x *= 0x94d049bb133111ebULL;
	return x ^ x >> 31;
}

/* A dump is of one moment: its lines add up to its head, whatever changes meanwhile. */
static void check_dump(struct disk *d)
{
	static _Thread_local char reply[DM_REPLY];
	unsigned long long count, sum, main, spare;
	uint64_t n = 0, got = 0, behind = 0;
	unsigned int len, index, flags;
	char *line, *next = reply;

	must(ask(d, reply, "dump 0"), "dump");
	line = strsep(&next, "\n");
	if (sscanf(line, "dump %llu %llx", &count, &sum) != 2)
		wrong("a dump starts with '%s'", line);
	while ((line = strsep(&next, "\n")) && strcmp(line, "end")) {
		if (sscanf(line, "remap %llu %llu %u %u %u", &main, &spare, &len, &index, &flags) != 5) {
			wrong("a dump has the line '%s'", line);
			return;
		}
		if (main < behind)
			wrong("a dump is out of order at %llu", main);
		behind = main + len;
		got += mix(mix(mix(main + 0x9e3779b97f4a7c15ULL) ^ spare) ^
			   (len | (uint64_t)index << 32 | (uint64_t)flags << 48));
		n++;
	}
	if (n != count || got != sum)
		wrong("a dump of %llu has %llu lines, or the sum is wrong", count,
		      (unsigned long long)n);
	did(DID_dump);
}

void *asker_run(void *arg)
{
	static const char *const texts[] = { "help", "status", "stats", "health", "clear_stats" };
	struct disk *d = arg;
	struct rnd r = rnd_for(210 + d->managed);
	static _Thread_local char reply[DM_REPLY];
	unsigned long long remaps, errors;

	while (!over()) {
		must(dm_status(d->name, rnd(&r, 2), reply), "status");
		must(dm_status(d->name, false, reply), "status");
		if (sscanf(reply, "%llu %llu ACTIVE 1", &remaps, &errors) != 2)
			wrong("the status is '%s'", reply);
		did(DID_status);
		must(ask(d, reply, "errors %u", (unsigned int)rnd(&r, 1000)), "errors");
		did(DID_errors);
		must(ask(d, reply, "%s", texts[rnd(&r, 5)]), "text");
		did(DID_text);
		check_dump(d);
		sleep_ms(60);
	}
	return NULL;
}

static void want(int got, int expected, const char *what)
{
	if (got != expected)
		wrong("%s: %d, not %d", what, got, expected);
	did(DID_refused);
}

void *refused_run(void *arg)
{
	struct disk *d = arg;
	unsigned long long len = d->len;

	while (!over()) {
		want(tell(d, NULL, "add_remap %llu 64 8", len), -ERANGE, "add_remap behind the end");
		want(tell(d, NULL, "add_remap 8 18446744073709551615 8"), -ERANGE, "add_remap");
		want(tell(d, NULL, "nonsense"), -EINVAL, "nonsense");
		if (d->managed) {
			want(tell(d, NULL, "add_remap %llu 64 8", len - 8), -EACCES, "add_remap");
			want(tell(d, NULL, "clear_all"), -EACCES, "clear_all");
			want(tell(d, NULL, "load 8:64:8:0:0"), -EACCES, "load");
			want(tell(d, NULL, "seal 4000000000"), -ENOENT, "seal");
			want(tell(d, NULL, "fence %llu 8 100", len), -ERANGE, "fence");
			want(tell(d, NULL, "fence 8 0 100"), -ERANGE, "fence");
			want(ask(d, NULL, "own 0000000000000000 1111111111111111"), -ESTALE, "own");
			want(ask(d, NULL, "lease 1"), -EPERM, "lease");
		} else {
			want(tell(d, NULL, "fence 8 8 100"), -EOPNOTSUPP, "fence");
			want(tell(d, NULL, "remove_remap %llu", len - 1), -ENOENT, "remove_remap");
		}
		sleep_ms(300);
	}
	return NULL;
}
