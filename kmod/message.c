// SPDX-License-Identifier: GPL-2.0-only
/*
 * Messages. The result buffer may be the memory that the words of the message
 * are in, so every handler is done with its words before it writes a reply; and
 * a caller whose buffer is too small sends the message again, so a handler that
 * changes something makes sure of the room first.
 */
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "remap.h"

#define REPLY_ROOM 160

struct message {
	struct remap_target *rt;
	unsigned int argc;
	char **argv;
	char *result;
	unsigned int maxlen;
};

/* Fill the buffer: device-mapper then asks the caller for a larger one. */
static int no_room(struct message *m)
{
	if (m->maxlen) {
		memset(m->result, ' ', m->maxlen - 1);
		m->result[m->maxlen - 1] = '\0';
	}
	return 1;
}

static __printf(2, 3) int reply(struct message *m, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vscnprintf(m->result, m->maxlen, fmt, args);
	va_end(args);
	return 1;
}

/* On a plain device what was done goes to the log too. */
#define done(m, fmt, ...)						\
({									\
	if (!(m)->rt->managed)						\
		pr_info(REMAP_LOG fmt, ##__VA_ARGS__);			\
	reply(m, REMAP_LOG fmt, ##__VA_ARGS__);				\
})

/* The word "fence=<id>" */
static bool fence_word(const char *word, u64 *id, int *r)
{
	if (strncmp(word, "fence=", 6))
		return false;
	*r = remap_parse_range(word + 6, 1, U32_MAX, id);
	return true;
}

/*
 * ctl held. On a managed device the mapping of a live range changes only under
 * a sealed fence, or before anything may pass at all.
 */
static int may_change(struct remap_device *rd, u64 fence, u64 start, u64 len)
{
	if (fence)
		return remap_fence_allows(rd, fence, start, len);
	if (rd->managed && READ_ONCE(rd->state) == STATE_ACTIVE)
		return -EACCES;
	return 0;
}

/* ctl held. The change is published: let go what waited for it. */
static void changed(struct remap_device *rd, u64 fence, u64 start, u64 end)
{
	if (fence)
		remap_fence_end(rd, fence);
	remap_decide(rd, start, end, V_REDRIVE);
}

static int add_words(struct message *m, struct remap_entry *e, u64 *fence)
{
	unsigned int i = 4;
	u64 len, index;
	int r;

	r = remap_parse_u64(m->argv[1], &e->main);
	if (!r)
		r = remap_parse_u64(m->argv[2], &e->spare);
	if (!r)
		r = remap_parse_range(m->argv[3], 1, U32_MAX, &len);
	if (r)
		return r;
	e->len = len;
	if (i < m->argc && m->argv[i][0] >= '0' && m->argv[i][0] <= '9') {
		r = remap_parse_range(m->argv[i++], 0, U16_MAX, &index);
		if (r)
			return r;
		e->index = index;
	}
	for (; i < m->argc; i++) {
		if (!m->rt->managed)
			return -EINVAL;
		if (!strcmp(m->argv[i], "marked"))
			e->flags = REMAP_MARKED;
		else if (!fence_word(m->argv[i], fence, &r))
			return -EINVAL;
		if (r)
			return r;
	}
	return 0;
}

static int add_remap(struct message *m)
{
	struct remap_device *rd = m->rt->rd;
	struct remap_entry e = { };
	struct remap_table *t;
	u64 fence = 0;
	int r;

	if (m->maxlen < REPLY_ROOM)
		return no_room(m);
	r = add_words(m, &e, &fence);
	if (!r)
		r = remap_entry_check(&m->rt->limits, &e);
	if (!r && e.flags && !rd->has_key)
		r = -ENOKEY;
	if (!r && remap_device_contested(m->rt))
		r = -EBUSY;
	if (!r)
		r = may_change(rd, fence, e.main, e.len);
	if (!r)
		r = remap_table_add(remap_table_of(rd), &e, &t);
	if (r)
		return r;
	remap_publish(rd, t);
	changed(rd, fence, e.main, e.main + e.len);
	return done(m, "Added remap: %llu → %llu (length: %u)\n",
		    e.main, e.spare, e.len);
}

static int remove_remap(struct message *m)
{
	struct remap_device *rd = m->rt->rd;
	const struct remap_entry *e;
	struct remap_table *t;
	u64 main, spare, len, next, fence = 0;
	int r;

	if (m->maxlen < REPLY_ROOM)
		return no_room(m);
	r = remap_parse_u64(m->argv[1], &main);
	if (!r && m->argc > 2 &&
	    (!rd->managed || !fence_word(m->argv[2], &fence, &r)))
		r = -EINVAL;
	if (r)
		return r;
	e = remap_table_find(remap_table_of(rd), main, &next);
	if (!e || e->main != main)
		return -ENOENT;
	spare = e->spare;
	len = e->len;
	r = may_change(rd, fence, main, len);
	if (!r)
		r = remap_table_remove(remap_table_of(rd), main, &t);
	if (r)
		return r;
	remap_publish(rd, t);
	changed(rd, fence, main, main + len);
	return done(m, "Removed remap: %llu (was mapping to %llu)\n", main, spare);
}

static int clear_all(struct message *m)
{
	struct remap_device *rd = m->rt->rd;
	struct remap_table *old = remap_table_of(rd), *t;
	u64 count = old->count, start = 0, len = 0, fence = 0;
	int r = 0;

	if (m->maxlen < REPLY_ROOM)
		return no_room(m);
	if (m->argc > 1 && (!rd->managed || !fence_word(m->argv[1], &fence, &r)))
		r = -EINVAL;
	if (r)
		return r;
	if (count) {
		start = old->e[0].main;
		len = old->e[count - 1].main + old->e[count - 1].len - start;
	}
	r = may_change(rd, fence, start, len);
	if (!r)
		r = remap_table_empty(&t);
	if (r)
		return r;
	remap_publish(rd, t);
	changed(rd, fence, start, start + len);
	return done(m, "Cleared all remaps (%llu entries removed)\n", count);
}

static int load(struct message *m)
{
	struct remap_device *rd = m->rt->rd;
	u64 n = remap_count_load(m->argv[1]), i;
	struct remap_entry *e;
	struct remap_table *t;
	int r;

	if (READ_ONCE(rd->state) == STATE_ACTIVE)
		return -EACCES;
	e = kvcalloc(n, sizeof(*e), GFP_KERNEL);
	if (!e)
		return -ENOMEM;
	r = remap_parse_load(m->argv[1], e, n);
	for (i = 0; i < n && !r; i++) {
		r = remap_entry_check(&m->rt->limits, &e[i]);
		if (!r && e[i].flags && !rd->has_key)
			r = -ENOKEY;
	}
	if (!r)
		r = remap_table_load(remap_table_of(rd), e, n, &t);
	if (!r)
		remap_publish(rd, t);
	kvfree(e);
	return r;
}

static int ready(struct message *m)
{
	struct remap_device *rd = m->rt->rd;
	struct remap_table *t = remap_table_of(rd);
	u64 count, checksum;
	int r;

	r = remap_parse_u64(m->argv[1], &count);
	if (!r)
		r = remap_parse_hex64(m->argv[2], &checksum);
	if (r)
		return r;
	if (count != t->count || checksum != t->checksum)
		return -EBADMSG;
	spin_lock_irq(&rd->lock);
	WRITE_ONCE(rd->state, STATE_ACTIVE);
	remap_gate_update(rd);
	remap_kick(rd);
	spin_unlock_irq(&rd->lock);
	return 0;
}

static int lease(struct message *m)
{
	struct remap_device *rd = m->rt->rd;
	u64 ms;
	int r = remap_parse_range(m->argv[1], 0, REMAP_MAX_LEASE_MS, &ms);

	if (r)
		return r;
	spin_lock_irq(&rd->lock);
	WRITE_ONCE(rd->lease_until, jiffies + msecs_to_jiffies(ms));
	WRITE_ONCE(rd->lease, ms != 0);
	if (!ms)
		remap_decide_locked(rd, 0, U64_MAX, V_EXPIRED);
	spin_unlock_irq(&rd->lock);
	remap_bounds_arm(rd);
	return 0;
}

static int secret(struct message *m)
{
	struct remap_device *rd = m->rt->rd;
	u8 key[REMAP_KEY_SIZE];
	int r = remap_parse_key(m->argv[1], key);

	/* The words may stay in memory for long, the secret need not. */
	memzero_explicit(m->argv[1], strlen(m->argv[1]));
	if (r)
		return r;
	if (rd->has_key && remap_table_of(rd)->marked &&
	    memcmp(rd->key, key, sizeof(key))) {
		r = -EBUSY;
	} else {
		spin_lock_irq(&rd->lock);
		memcpy(rd->key, key, sizeof(key));
		rd->has_key = true;
		spin_unlock_irq(&rd->lock);
	}
	memzero_explicit(key, sizeof(key));
	return r;
}

static int fence(struct message *m)
{
	u64 start, len, ms;
	u32 id;
	int r;

	if (m->maxlen < REPLY_ROOM)
		return no_room(m);
	r = remap_parse_u64(m->argv[1], &start);
	if (!r)
		r = remap_parse_u64(m->argv[2], &len);
	if (!r)
		r = remap_parse_range(m->argv[3], 1, REMAP_MAX_FENCE_MS, &ms);
	if (!r)
		r = remap_fence_add(m->rt, start, len, ms, &id);
	return r ?: reply(m, "fence %u\n", id);
}

static int seal(struct message *m)
{
	u64 id;

	return remap_parse_u64(m->argv[1], &id) ?:
	       remap_fence_seal(m->rt->rd, id);
}

static int unfence(struct message *m)
{
	u64 id;

	return remap_parse_u64(m->argv[1], &id) ?:
	       remap_fence_end(m->rt->rd, id);
}

/* retry and release: decide the held pieces of a range */
static int decide(struct message *m)
{
	bool retry = !strcmp(m->argv[0], "retry");
	u64 start, len;
	int r;

	if (m->maxlen < REPLY_ROOM)
		return no_room(m);
	r = remap_parse_u64(m->argv[1], &start);
	if (!r)
		r = remap_parse_u64(m->argv[2], &len);
	if (!r && (!len || len > U64_MAX - start))
		r = -ERANGE;
	if (r)
		return r;
	return reply(m, "%u\n", remap_decide(m->rt->rd, start, start + len,
					     retry ? V_REDRIVE : V_RELEASED));
}

static const struct command {
	const char *name;
	unsigned int min, max;		/* words, with the name */
	bool managed;			/* unknown to a plain device */
	int (*run)(struct message *m);
} commands[] = {
	{ "add_remap", 4, 7, false, add_remap },
	{ "remove_remap", 2, 3, false, remove_remap },
	{ "clear_all", 1, 2, false, clear_all },
	{ "load", 2, 2, true, load },
	{ "ready", 3, 3, true, ready },
	{ "lease", 2, 2, true, lease },
	{ "secret", 2, 2, true, secret },
	{ "fence", 4, 4, true, fence },
	{ "seal", 2, 2, true, seal },
	{ "unfence", 2, 2, true, unfence },
	{ "retry", 3, 3, true, decide },
	{ "release", 3, 3, true, decide },
};

/* ctl held */
static int run_command(struct message *m)
{
	const struct command *c;

	for (c = commands; c < commands + ARRAY_SIZE(commands); c++) {
		if (strcmp(m->argv[0], c->name))
			continue;
		if (c->managed && !m->rt->managed)
			return -EOPNOTSUPP;
		if (m->argc < c->min || m->argc > c->max)
			return -EINVAL;
		return c->run(m);
	}
	return -EINVAL;
}

static int instance_word(struct remap_device *rd, const char *word)
{
	u64 instance;
	int r = remap_parse_hex64(word, &instance);

	return r ?: instance == rd->instance ? 0 : -ESTALE;
}

/* ctl held: own <instance> <token> */
static int own(struct message *m)
{
	struct remap_device *rd = m->rt->rd;
	u64 token;
	int r;

	if (!rd->managed)
		return -EOPNOTSUPP;
	if (m->argc != 3)
		return -EINVAL;
	r = instance_word(rd, m->argv[1]) ?: remap_parse_hex64(m->argv[2], &token);
	if (!r) {
		rd->token = token;
		rd->owned = true;
	}
	return r;
}

/* ctl held: as <instance> <token> <message...> */
static int as_owner(struct message *m)
{
	struct remap_device *rd = m->rt->rd;
	u64 token;
	int r;

	if (!rd->managed)
		return -EOPNOTSUPP;
	if (m->argc < 4)
		return -EINVAL;
	r = instance_word(rd, m->argv[1]);
	if (!r && (remap_parse_hex64(m->argv[2], &token) || !rd->owned ||
		   token != rd->token))
		r = -EPERM;
	if (r)
		return r;
	m->argc -= 3;
	m->argv += 3;
	return run_command(m);
}

static int changing(struct message *m)
{
	if (!strcmp(m->argv[0], "own"))
		return own(m);
	if (!strcmp(m->argv[0], "as"))
		return as_owner(m);
	if (m->rt->managed) {
		const struct command *c;

		for (c = commands; c < commands + ARRAY_SIZE(commands); c++)
			if (!strcmp(m->argv[0], c->name))
				return -EPERM;
		return -EINVAL;
	}
	return run_command(m);
}

/* Messages that change nothing; -ENOMSG if it is not one of them. */
static int asking(struct message *m)
{
	struct remap_device *rd = m->rt->rd;
	const char *what = m->argv[0];
	u64 n;
	int r;

	if (!strcmp(what, "errors") || !strcmp(what, "dump")) {
		bool errors = what[0] == 'e';

		if (m->argc != 2)
			return -EINVAL;
		r = remap_parse_u64(m->argv[1], &n);
		if (r)
			return r;
		if (m->maxlen < 4 * REPLY_ROOM)
			return no_room(m);
		if (errors)
			remap_errors(rd, n, m->result, m->maxlen);
		else
			remap_reply_dump(rd, n, m->result, m->maxlen);
		return 1;
	}
	if (!strcmp(what, "fences")) {
		if (m->argc != 1)
			return -EINVAL;
		remap_reply_fences(rd, m->result, m->maxlen);
		return 1;
	}
	r = remap_reply_known(m->rt, what, m->result, m->maxlen);
	if (r == -ENOMSG || m->argc == 1)
		return r;
	return -EINVAL;
}

/* The reference's codes and words, for the log of a plain device. */
static void log_failure(const char *what, int r)
{
	const char *why;

	switch (r) {
	case -ENOENT:
		why = "Remap not found";
		break;
	case -ERANGE:
	case -ENODEV:
		why = "Invalid sector range";
		break;
	case -EEXIST:
		why = "Overlaps an existing remap";
		break;
	case -ENOMEM:
		why = "Out of memory";
		break;
	case -EOPNOTSUPP:
		why = "Operation not supported";
		break;
	default:
		why = "Invalid argument";
		break;
	}
	pr_info(REMAP_LOG "%s failed: %s (%d)\n", what, why, r);
}

/* A copy of the first word that is fit for the log, whatever was sent. */
static void log_word(char *to, size_t size, const char *word)
{
	size_t i;

	for (i = 0; i + 1 < size && word[i]; i++)
		to[i] = word[i] > ' ' && word[i] < 127 ? word[i] : '?';
	to[i] = '\0';
}

int remap_message(struct dm_target *ti, unsigned int argc, char **argv,
		  char *result, unsigned int maxlen)
{
	struct remap_target *rt = ti->private;
	struct message m = {
		.rt = rt, .argc = argc, .argv = argv,
		.result = result, .maxlen = maxlen,
	};
	/* We may be what the system swaps or writes back to. */
	unsigned int noio = memalloc_noio_save();
	char what[24];
	int r;

	log_word(what, sizeof(what), argv[0]);
	mutex_lock(&rt->rd->ctl);
	r = asking(&m);
	if (r == -ENOMSG)
		r = changing(&m);
	mutex_unlock(&rt->rd->ctl);
	memalloc_noio_restore(noio);
	if (r < 0 && !rt->managed)
		log_failure(what, r);
	return r;
}
