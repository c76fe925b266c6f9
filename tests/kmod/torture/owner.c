// SPDX-License-Identifier: GPL-2.0-only
/* Those who send messages: what a daemon does, faster and less sensibly. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../lost.h"
#include "torture.h"

/* As long as may be: on a busy machine seconds pass between two lines. */
#define FENCE_MS 60000
#define MAX_ENTRIES 24

void must(int r, const char *what)
{
	if (r < 0)
		wrong("%s: %s", what, strerror(-r));
}

int ask(struct disk *d, char *reply, const char *fmt, ...)
{
	char text[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	return dm_message(d->name, d->base, reply, text);
}

int tell(struct disk *d, char *reply, const char *fmt, ...)
{
	char words[512], text[640];
	va_list args;
	int r = -EPERM;

	va_start(args, fmt);
	vsnprintf(words, sizeof(words), fmt, args);
	va_end(args);
	if (!d->managed)
		return dm_message(d->name, d->base, reply, words);
	/* Somebody may take over meanwhile: then once more with the new token. */
	for (int i = 0; r == -EPERM && i < 100; i++) {
		pthread_mutex_lock(&d->token_lock);
		snprintf(text, sizeof(text), "as %s %s %s", d->instance, d->token, words);
		pthread_mutex_unlock(&d->token_lock);
		r = dm_message(d->name, d->base, reply, text);
	}
	return r;
}

void take_over(struct disk *d)
{
	static atomic_uint last;
	char old[17];
	int r;

	pthread_mutex_lock(&d->token_lock);
	strcpy(old, d->token);
	snprintf(d->token, sizeof(d->token), "%016x", atomic_fetch_add(&last, 1) + 1);
	r = ask(d, NULL, "own %s %s", d->instance, d->token);
	if (r) {
		wrong("own: %s", strerror(-r));
	} else if (*old) {
		r = ask(d, NULL, "as %s %s lease 0", d->instance, old);
		if (r != -EPERM)
			wrong("a message with an old token: %d", r);
		did(DID_stale_token);
	}
	pthread_mutex_unlock(&d->token_lock);
	did(DID_own);
}

/* What the device knows of an error that nobody else has a reason for. */
void show_device(struct disk *d)
{
	static char reply[DM_REPLY];
	unsigned long long next = 0;

	if (!dm_status(d->name, false, reply)) {
		printf("## %s\n", reply);
		sscanf(reply, "%*u %*u %*s %*u %*s %llu", &next);
	}
	if (!ask(d, reply, "fences"))
		printf("## %s\n", reply);
	if (!ask(d, reply, "errors %llu", next > 20 ? next - 20 : 0))
		printf("## %s\n", reply);
}

/* ---- fences ---- */

enum fence { GONE, DRAINING, DRAINED, SEALED, FAILED };

static enum fence fence_state(struct disk *d, unsigned int id)
{
	static const char *const names[] = { "", "draining", "drained", "sealed", "failed" };
	static _Thread_local char reply[DM_REPLY];
	char *line, *next = reply;

	must(ask(d, reply, "fences"), "fences");
	while ((line = strsep(&next, "\n"))) {
		char state[16];
		unsigned int n;

		if (sscanf(line, "fence %u %*u %*u %15s", &n, state) != 2 || n != id)
			continue;
		for (int i = DRAINING; i <= FAILED; i++)
			if (!strcmp(state, names[i]))
				return i;
	}
	return GONE;
}

/* The fence's number, drained; 0 if it did not come about. */
static unsigned int fence(struct disk *d, uint64_t start, uint64_t n, unsigned int ms)
{
	static _Thread_local char reply[DM_REPLY];
	enum fence state = DRAINING;
	unsigned int id;
	int r = tell(d, reply, "fence %llu %llu %u", (unsigned long long)start,
		     (unsigned long long)n, ms);

	if (r) {
		wrong("fence %llu+%llu: %s", (unsigned long long)start,
		      (unsigned long long)n, strerror(-r));
		return 0;
	}
	if (sscanf(reply, "fence %u", &id) != 1) {
		wrong("the reply to fence is '%s'", reply);
		return 0;
	}
	did(DID_fence);
	for (; state == DRAINING; sleep_ms(1))
		state = fence_state(d, id);
	return state == DRAINED ? id : 0;
}

/* ---- moving sectors ---- */

struct entry {
	uint64_t main, spare, len;
	bool marked;
};

static uint64_t place_in(const struct entry *e, unsigned int index, uint64_t sector)
{
	if (!e || sector < e->main || sector >= e->main + e->len)
		return 0;
	return (uint64_t)(index + 1) << 32 | (e->spare + sector - e->main);
}

/* A mark is an error on a spare; on main it would be wrong data. */
static bool would_bring_marks_home(struct disk *d, const struct entry *new, unsigned int index,
				   uint64_t start, uint64_t n)
{
	for (uint64_t s = start; s < start + n; s++) {
		uint64_t at;
		uint8_t *medium = medium_of(d, d->place[s], s, &at);

		if (!place_in(new, index, s) && is_lost_mark(medium + at * 512, 512, s, KEY))
			return true;
	}
	return false;
}

static void copy(struct disk *d, const struct entry *new, unsigned int index,
		 uint64_t start, uint64_t n)
{
	for (uint64_t s = start; s < start + n; s++)
		move_to(d, s, place_in(new, index, s));
}

static int send_change(struct disk *d, const struct entry *old, const struct entry *new,
		       unsigned int index, unsigned int id)
{
	char word[32] = "";

	if (id)
		snprintf(word, sizeof(word), " fence=%u", id);
	if (!new)
		return tell(d, NULL, "remove_remap %llu%s", (unsigned long long)old->main, word);
	return tell(d, NULL, "add_remap %llu %llu %llu %u%s%s", (unsigned long long)new->main,
		    (unsigned long long)new->spare, (unsigned long long)new->len, index, word,
		    new->marked ? " marked" : "");
}

/*
 * From @old to @new; one of them may be NULL. On a managed device under a fence,
 * as a daemon does it, against I/O to the same sectors. On a plain one nothing
 * else can keep I/O out than not to send it.
 */
static bool change(struct disk *d, const struct entry *old, const struct entry *new,
		   unsigned int index)
{
	uint64_t start = old ? old->main : new->main, n = old ? old->len : 0;
	unsigned int id = 0;
	int r;

	if (new && new->len > n)
		n = new->len;
	if (d->managed) {
		id = fence(d, start, n, FENCE_MS);
		if (!id)
			return false;
	} else {
		lock_range(d, start, n);
	}
	if (would_bring_marks_home(d, new, index, start, n)) {
		must(tell(d, NULL, "unfence %u", id), "unfence");
		did(DID_unfence);
		return false;
	}
	if (id && new && tell(d, NULL, "add_remap %llu %llu 1 0 fence=%u", (unsigned long long)start,
			      (unsigned long long)new->spare, id) != -EAGAIN)
		wrong("add_remap under a fence that is not sealed");
	if (id) {
		must(tell(d, NULL, "seal %u", id), "seal");
		did(DID_seal);
	}
	copy(d, new, index, start, n);
	r = send_change(d, old, new, index, id);
	must(r, new ? "add_remap" : "remove_remap");
	if (!id)
		unlock_range(d, start, n);
	did(!new ? DID_remove : old ? DID_replace : DID_add);
	return !r;
}

static bool overlap(uint64_t a, uint64_t an, uint64_t b, uint64_t bn)
{
	return a < b + bn && b < a + an;
}

static bool free_place(const struct mover *m, const struct entry *e, int n,
		       const struct entry *new, const struct entry *but)
{
	if (new->main + new->len > m->end || new->spare + new->len > m->spare_end)
		return false;
	for (int i = 0; i < n; i++) {
		if (&e[i] != but && overlap(e[i].main, e[i].len, new->main, new->len))
			return false;
		if (overlap(e[i].spare, e[i].len, new->spare, new->len))
			return false;
	}
	return true;
}

static struct entry some_entry(const struct mover *m, struct rnd *r)
{
	struct entry e = {
		.len = 1 + rnd(r, rnd(r, 3) ? 40 : 300),
		.marked = m->d->managed && rnd(r, 2),
	};

	e.main = m->start + rnd(r, m->end - m->start);
	e.spare = m->spare_start + rnd(r, m->spare_end - m->spare_start);
	return e;
}

/* A sector of a marked entry is lost, as after a salvage that did not succeed. */
static void lose(struct disk *d, const struct entry *e, struct rnd *r)
{
	uint64_t s = e->main + rnd(r, e->len), at;
	uint8_t *medium;

	lock_range(d, s, 1);
	medium = medium_of(d, d->place[s], s, &at);
	make_lost_mark(medium + at * 512, 512, s, KEY);
	d->sector[s].n = 1;
	d->sector[s].v[0] = LOST;
	unlock_range(d, s, 1);
	did(DID_lose);
}

static void fence_for_nothing(struct mover *m, struct rnd *r)
{
	uint64_t n = 1 + rnd(r, 200), at = m->start + rnd(r, m->end - m->start - n);
	unsigned int id;

	switch (rnd(r, 3)) {
	case 0:
		id = fence(m->d, at, n, FENCE_MS);
		sleep_ms(rnd(r, 10));
		must(tell(m->d, NULL, "unfence %u", id), "unfence");
		did(DID_unfence);
		break;
	case 1:
		id = fence(m->d, at, n, 20 + rnd(r, 30));
		while (id && fence_state(m->d, id) != GONE)
			sleep_ms(5);
		did(DID_fence_expired);
		break;
	case 2:
		excuse_begin(m->d, at, n);
		id = fence(m->d, at, n, 300);
		if (id && !tell(m->d, NULL, "seal %u", id)) {
			while (fence_state(m->d, id) != FAILED)
				sleep_ms(5);
			sleep_ms(20);
			must(tell(m->d, NULL, "unfence %u", id), "unfence");
			did(DID_fence_failed);
		}
		excuse_end(m->d, at, n);
		break;
	}
}

static void clear(struct mover *m)
{
	struct disk *d = m->d;

	lock_range(d, m->start, m->end - m->start);
	copy(d, NULL, 0, m->start, m->end - m->start);
	must(tell(d, NULL, "clear_all"), "clear_all");
	unlock_range(d, m->start, m->end - m->start);
	did(DID_clear);
}

void *mover_run(void *arg)
{
	struct mover *m = arg;
	struct rnd r = rnd_for(m->nr);
	struct entry e[MAX_ENTRIES];
	int n = 0;

	while (!over()) {
		struct entry *old = n ? &e[rnd(&r, n)] : NULL, new = some_entry(m, &r);
		unsigned int what = rnd(&r, 14);

		if (what == 0 && m->d->managed) {
			fence_for_nothing(m, &r);
		} else if (what == 0 && !rnd(&r, 4)) {
			clear(m);
			n = 0;
		} else if ((what == 1 || what > 11) && old && old->marked) {
			lose(m->d, old, &r);
		} else if (what < 4 && old) {
			new.main = old->main;
			new.marked = old->marked;
			if (free_place(m, e, n, &new, old) && change(m->d, old, &new, m->index))
				*old = new;
		} else if ((what < 7 || n == MAX_ENTRIES) && old) {
			if (change(m->d, old, NULL, m->index))
				*old = e[--n];
		} else if (n < MAX_ENTRIES && free_place(m, e, n, &new, NULL)) {
			if (change(m->d, NULL, &new, m->index))
				e[n++] = new;
		}
	}
	return NULL;
}

void *churner_run(void *arg)
{
	struct disk *d = arg;
	char reply[DM_REPLY];
	unsigned int id;

	while (!over()) {
		must(tell(d, reply, "fence %llu %u %u", (unsigned long long)d->len - BLOCK, BLOCK,
			  FENCE_MS), "fence");
		if (sscanf(reply, "fence %u", &id) == 1)
			must(tell(d, NULL, "unfence %u", id), "unfence");
		did(DID_fence_churned);
	}
	return NULL;
}

/* ---- bad blocks ---- */

enum block { GOOD, BAD, CURED };

struct patient {
	enum block state;
	uint64_t since;
	bool left_alone;	/* what it holds runs to its bound */
};

static void dust(struct surgeon *s, const char *what, unsigned int block, const char *more)
{
	char text[64];

	snprintf(text, sizeof(text), "%s %u%s", what, block, more);
	must(dm_message(s->dust, 0, NULL, text), text);
}

static void spoil(struct surgeon *s, struct patient *p, unsigned int block)
{
	excuse_begin(s->d, block * BLOCK, BLOCK);
	dust(s, "addbadblock", block, " 255");
	p->state = BAD;
	p->since = now_ms();
	p->left_alone = false;
	did(DID_bad_block);
}

static void heal(struct surgeon *s, struct patient *p, unsigned int block)
{
	char text[64];

	/* Some write may have healed it by itself. */
	snprintf(text, sizeof(text), "removebadblock %u", block);
	dm_message(s->dust, 0, NULL, text);
	if (p->state == BAD)
		excuse_end(s->d, block * BLOCK, BLOCK);
	p->state = GOOD;
}

static struct entry block_entry(struct surgeon *s, unsigned int block)
{
	return (struct entry){ block * BLOCK, s->spare_start + block * BLOCK, BLOCK, false };
}

static void retry(struct disk *d, uint64_t start, uint64_t n)
{
	char reply[DM_REPLY];

	must(tell(d, reply, "retry %llu %llu", (unsigned long long)start,
		  (unsigned long long)n), "retry");
	if (atoi(reply))
		did(DID_retried);
}

static void cure(struct surgeon *s, struct patient *p, unsigned int block, struct rnd *r)
{
	struct entry e = block_entry(s, block);

	switch (rnd(r, 6)) {
	case 0:
		must(tell(s->d, NULL, "release %u %u", block * BLOCK, BLOCK), "release");
		break;
	case 1:
		p->left_alone = true;
		break;
	case 2:
		heal(s, p, block);
		retry(s->d, block * BLOCK, BLOCK);
		break;
	default:
		if (change(s->d, NULL, &e, 0)) {
			p->state = CURED;
			p->since = now_ms();
			excuse_end(s->d, block * BLOCK, BLOCK);
		}
		break;
	}
}

/* The blocks that hold writes now, and what the ring says of others. */
static uint64_t look(struct surgeon *s, struct patient *p, uint64_t since, struct rnd *r)
{
	static char reply[DM_REPLY];
	char *line, *next = reply;

	must(ask(s->d, reply, "errors %llu", (unsigned long long)since), "errors");
	while ((line = strsep(&next, "\n"))) {
		unsigned long long seq, main;
		char kind[16], op[16], member[16];

		if (sscanf(line, "e %llu %15s %15s %15s %llu", &seq, kind, op, member, &main) != 5)
			continue;
		since = seq + 1;
		if (!strcmp(kind, "healed"))
			did(DID_healed);
		else if (!strcmp(kind, "expired"))
			did(DID_expired);
		else if (!strcmp(kind, "released"))
			did(DID_released);
		if (strcmp(kind, "held"))
			continue;
		did(DID_held);
		if (main / BLOCK < s->blocks && p[main / BLOCK].state == BAD &&
		    !p[main / BLOCK].left_alone)
			cure(s, &p[main / BLOCK], main / BLOCK, r);
	}
	return since;
}

static void discharge(struct surgeon *s, struct patient *p, unsigned int block, bool all)
{
	uint64_t age = now_ms() - p->since;
	struct entry e = block_entry(s, block);

	if (p->state == BAD && (all || age > 3000)) {
		heal(s, p, block);
		retry(s->d, block * BLOCK, BLOCK);
	} else if (p->state == CURED && !all && age > 2000) {
		/* First it has to be good again, then it may be used. */
		heal(s, p, block);
		if (!change(s->d, &e, NULL, 0))
			p->state = CURED;
	}
}

void *surgeon_run(void *arg)
{
	struct surgeon *s = arg;
	struct patient *p = calloc(s->blocks, sizeof(*p));
	struct rnd r = rnd_for(200);
	uint64_t since = 0;

	while (!over()) {
		/* Not the first one: dm-dust fails all flushes while it is bad. */
		unsigned int block = 1 + rnd(&r, s->blocks - 1);

		if (p[block].state == GOOD && !rnd(&r, 3))
			spoil(s, &p[block], block);
		since = look(s, p, since, &r);
		for (block = 0; block < s->blocks; block++)
			discharge(s, &p[block], block, false);
		sleep_ms(10);
	}
	for (unsigned int block = 0; block < s->blocks; block++)
		discharge(s, &p[block], block, true);
	free(p);
	return NULL;
}

/* ---- lease, owner ---- */

void *keeper_run(void *arg)
{
	struct disk *d = arg;
	struct rnd r = rnd_for(201);

	while (!over()) {
		if (!rnd(&r, 20)) {
			must(tell(d, NULL, "lease 0"), "lease");
			did(DID_lease_ended);
			sleep_ms(30);
		}
		must(tell(d, NULL, "lease 3000"), "lease");
		if (!rnd(&r, 3))
			take_over(d);
		sleep_ms(100);
	}
	return NULL;
}

/* ---- suspend, reload, outages ---- */

/* A table that is loaded over a broken member would take its limits. */
static pthread_mutex_t members_whole = PTHREAD_MUTEX_INITIALIZER;

/* Load the live table once more; or one that must not be accepted. */
static void load_something(struct disk *d, struct rnd *r)
{
	static _Thread_local char text[DM_REPLY];
	struct line t = { 0, d->len, "dm-remap-v4", text };

	must(dm_status(d->name, true, text), "table");
	if (rnd(r, 2)) {
		must(dm_load(d->name, &t, 1), "load");
		did(DID_reload);
		return;
	}
	t.len -= BLOCK;
	if (dm_load(d->name, &t, 1) != -EBUSY)
		wrong("a table that orphans remaps was loaded");
	did(DID_orphan_refused);
}

void *suspender_run(void *arg)
{
	struct disk *d = arg;
	struct rnd r = rnd_for(202 + d->managed);

	while (!over()) {
		bool noflush = rnd(&r, 2);

		pthread_mutex_lock(&members_whole);
		if (d->managed)
			load_something(d, &r);
		must(dm_suspend(d->name, noflush), "suspend");
		sleep_ms(rnd(&r, 20));
		must(dm_resume(d->name), "resume");
		pthread_mutex_unlock(&members_whole);
		did(noflush ? DID_suspend_noflush : DID_suspend);
		sleep_ms(100 + rnd(&r, 300));
	}
	return NULL;
}

static void outage(struct breaker *b, bool main, struct rnd *r)
{
	struct disk *d = b->d;
	const char *name = main ? b->main : b->spare;
	const struct line *good = main ? b->main_table : b->spare_table;
	int lines = main ? b->main_lines : b->spare_lines;
	uint64_t len = good[lines - 1].start + good[lines - 1].len;
	const struct line broken = { 0, len, "error", "" };

	pthread_mutex_lock(&members_whole);
	excuse_all_begin(d);
	dm_swap(name, &broken, 1);
	sleep_ms(20 + rnd(r, 100));
	dm_swap(name, good, lines);
	pthread_mutex_unlock(&members_whole);
	if (rnd(r, 2))
		retry(d, 0, d->len);
	else
		must(tell(d, NULL, "release 0 %llu", (unsigned long long)d->len), "release");
	must(tell(d, NULL, "ack_flush"), "ack_flush");
	excuse_all_end(d);
	did(main ? DID_outage_main : DID_outage_spare);
}

void *breaker_run(void *arg)
{
	struct breaker *b = arg;
	struct rnd r = rnd_for(204);

	while (!over()) {
		sleep_ms(500 + rnd(&r, 1500));
		outage(b, rnd(&r, 2), &r);
	}
	return NULL;
}
