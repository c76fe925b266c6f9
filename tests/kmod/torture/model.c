// SPDX-License-Identifier: GPL-2.0-only
/*
 * What every sector of a device must contain, and on which medium it must lie.
 *
 * The content of a sector is a function of (sector, version); version 0 is all
 * zero. A write that failed may have arrived or not: then a sector has several
 * possible versions until a read shows which. Whoever does I/O holds the locks
 * of its range, so the model knows the order of all I/O to a sector; what runs
 * against it at the same time is everything else: moves, fences, suspends.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../lost.h"
#include "torture.h"

#define POISON (UINT32_MAX - 1)

static void stamp(uint8_t *b, uint64_t sector, uint32_t version)
{
	uint64_t x = sector * 0x9e3779b97f4a7c15ULL + version * 0xbf58476d1ce4e5b9ULL;
	uint64_t w[64];

	if (!version) {
		memset(b, 0, 512);
		return;
	}
	w[0] = sector;
	w[1] = version;
	for (int i = 2; i < 64; i++) {
		x = x * 6364136223846793005ULL + 1442695040888963407ULL;
		w[i] = x;
	}
	memcpy(b, w, 512);
}

static bool is_stamp(const uint8_t *b, uint64_t sector, uint32_t version)
{
	uint8_t want[512];

	stamp(want, sector, version);
	return !memcmp(b, want, 512);
}

void disk_init(struct disk *d)
{
	uint64_t chunks = (d->len + CHUNK - 1) / CHUNK;
	uint64_t blocks = (d->len + BLOCK - 1) / BLOCK;

	d->sector = calloc(d->len, sizeof(*d->sector));
	d->place = calloc(d->len, sizeof(*d->place));
	d->lock = calloc(chunks, sizeof(*d->lock));
	d->active = calloc(blocks, sizeof(*d->active));
	d->gen = calloc(blocks, sizeof(*d->gen));
	pthread_mutex_init(&d->token_lock, NULL);
	for (uint64_t i = 0; i < chunks; i++)
		pthread_mutex_init(&d->lock[i], NULL);
	d->version = 1;
	for (uint64_t s = 0; s < d->len; s++) {
		d->sector[s].n = 1;
		d->sector[s].v[0] = 1;
		stamp(d->main + s * 512, s, 1);
	}
	for (int i = 0; i < SPARES; i++)
		if (d->spare[i])
			poison(d->spare[i], 0, d->spare_len[i]);
}

void fill(uint8_t *b, uint64_t sector, uint64_t n, uint32_t version)
{
	for (uint64_t i = 0; i < n; i++)
		stamp(b + i * 512, sector + i, version);
}

void poison(uint8_t *medium, uint64_t sector, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		stamp(medium + (sector + i) * 512, sector + i, POISON);
}

bool is_poison(const uint8_t *medium, uint64_t sector)
{
	return is_stamp(medium + sector * 512, sector, POISON);
}

uint8_t *medium_of(const struct disk *d, uint64_t place, uint64_t sector, uint64_t *at)
{
	if (!place) {
		*at = sector;
		return d->main;
	}
	*at = (uint32_t)place;
	return d->spare[(place >> 32) - 1];
}

void move_to(struct disk *d, uint64_t sector, uint64_t place)
{
	uint64_t from_at, to_at;
	uint8_t *from = medium_of(d, d->place[sector], sector, &from_at);
	uint8_t *to = medium_of(d, place, sector, &to_at);

	if (place == d->place[sector])
		return;
	memcpy(to + to_at * 512, from + from_at * 512, 512);
	/* Whoever still reads or writes here shows. */
	poison(from, from_at, 1);
	d->place[sector] = place;
}

void lock_range(struct disk *d, uint64_t start, uint64_t n)
{
	for (uint64_t c = start / CHUNK; c <= (start + n - 1) / CHUNK; c++)
		pthread_mutex_lock(&d->lock[c]);
}

void unlock_range(struct disk *d, uint64_t start, uint64_t n)
{
	for (uint64_t c = start / CHUNK; c <= (start + n - 1) / CHUNK; c++)
		pthread_mutex_unlock(&d->lock[c]);
}

static bool possible(const struct content *c, uint32_t version)
{
	for (int i = 0; i < c->n; i++)
		if (c->v[i] == version)
			return true;
	return false;
}

bool may_be_lost(const struct disk *d, uint64_t start, uint64_t n)
{
	for (uint64_t s = start; s < start + n; s++)
		if (possible(&d->sector[s], LOST))
			return true;
	return false;
}

void wrote(struct disk *d, uint64_t start, uint64_t n, uint32_t version, bool surely)
{
	for (uint64_t s = start; s < start + n; s++) {
		struct content *c = &d->sector[s];

		if (surely) {
			c->n = 1;
			c->v[0] = version;
		} else if (c->n && c->n < VERSIONS) {
			c->v[c->n++] = version;
		} else {
			c->n = 0;
		}
	}
}

static void show(const struct disk *d, const uint8_t *b, uint64_t sector, const char *where)
{
	const struct content *c = &d->sector[sector];
	uint64_t w[2];

	memcpy(w, b, sizeof(w));
	wrong("%s: sector %llu%s has content of sector %llu version %llx, may be %x (%u of them)",
	      d->name, (unsigned long long)sector, where, (unsigned long long)w[0],
	      (unsigned long long)w[1], c->v[0], c->n);
}

void must_be(struct disk *d, const uint8_t *b, uint64_t start, uint64_t n)
{
	for (uint64_t s = start; s < start + n; s++, b += 512) {
		struct content *c = &d->sector[s];
		int i;

		for (i = 0; i < c->n; i++)
			if (c->v[i] != LOST && is_stamp(b, s, c->v[i]))
				break;
		if (i < c->n) {
			c->v[0] = c->v[i];
			c->n = 1;
		} else if (c->n) {
			show(d, b, s, "");
			return;
		}
	}
}

/* Is the content of @sector, or its lost mark, at @b? */
static bool holds(const struct disk *d, const uint8_t *b, uint64_t sector)
{
	const struct content *c = &d->sector[sector];

	if (!c->n)
		return true;
	for (int i = 0; i < c->n; i++)
		if (c->v[i] == LOST ? is_lost_mark(b, 512, sector, KEY) :
				      is_stamp(b, sector, c->v[i]))
			return true;
	return false;
}

bool at_their_places(const struct disk *d, uint64_t start, uint64_t n)
{
	uint64_t at;

	for (uint64_t s = start; s < start + n; s++) {
		uint8_t *medium = medium_of(d, d->place[s], s, &at);

		if (!holds(d, medium + at * 512, s)) {
			show(d, medium + at * 512, s, d->place[s] ? " on its spare" : " on main");
			return false;
		}
	}
	return true;
}

static void check_rest(const struct disk *d, const uint8_t *medium, uint64_t len,
		       const bool *used, const char *name)
{
	for (uint64_t s = 0; s < len; s++)
		if (!used[s] && !is_poison(medium, s)) {
			wrong("%s: sector %llu of its %s is nobody's and was written",
			      d->name, (unsigned long long)s, name);
			return;
		}
}

static void check_known(const struct disk *d)
{
	uint64_t unknown = 0;

	for (uint64_t s = 0; s < d->len; s++)
		unknown += d->sector[s].n != 1;
	if (unknown > d->len / 10)
		wrong("%s: %llu of %llu sectors may be anything", d->name,
		      (unsigned long long)unknown, (unsigned long long)d->len);
}

void check_media(struct disk *d)
{
	bool *used[SPARES + 1];
	uint64_t at;

	check_known(d);
	if (!at_their_places(d, 0, d->len))
		return;
	used[0] = calloc(d->len, 1);
	for (int i = 0; i < SPARES; i++)
		used[i + 1] = calloc(d->spare_len[i] + 1, 1);
	for (uint64_t s = 0; s < d->len; s++) {
		medium_of(d, d->place[s], s, &at);
		used[d->place[s] >> 32][at] = true;
	}
	check_rest(d, d->main, d->len, used[0], "main");
	for (int i = 0; i < SPARES; i++)
		check_rest(d, d->spare[i], d->spare_len[i], used[i + 1], "spare");
	for (int i = 0; i <= SPARES; i++)
		free(used[i]);
}

void excuse_begin(struct disk *d, uint64_t start, uint64_t n)
{
	for (uint64_t b = start / BLOCK; b <= (start + n - 1) / BLOCK; b++) {
		atomic_fetch_add(&d->active[b], 1);
		atomic_fetch_add(&d->gen[b], 1);
	}
}

void excuse_end(struct disk *d, uint64_t start, uint64_t n)
{
	for (uint64_t b = start / BLOCK; b <= (start + n - 1) / BLOCK; b++)
		atomic_fetch_sub(&d->active[b], 1);
}

void excuse_all_begin(struct disk *d)
{
	atomic_fetch_add(&d->all_active, 1);
	atomic_fetch_add(&d->all_gen, 1);
}

void excuse_all_end(struct disk *d)
{
	atomic_fetch_sub(&d->all_active, 1);
}

struct excuse excuse_look(struct disk *d, uint64_t start, uint64_t n)
{
	struct excuse e = { atomic_load(&d->all_gen), atomic_load(&d->all_active) };

	for (uint64_t b = start / BLOCK; b <= (start + n - 1) / BLOCK; b++) {
		e.gen += atomic_load(&d->gen[b]);
		e.active |= atomic_load(&d->active[b]) != 0;
	}
	return e;
}

bool excused(struct disk *d, uint64_t start, uint64_t n, struct excuse before)
{
	return before.active || excuse_look(d, start, n).gen != before.gen;
}
