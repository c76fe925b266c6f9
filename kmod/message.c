// SPDX-License-Identifier: GPL-2.0-only
/*
 * Messages. The result buffer may be the memory that the words of the message
 * are in, so every handler is done with its words before it writes a reply; and
 * a caller whose buffer is too small sends the message again, so a handler that
 * changes something makes sure of the room first.
 */
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "message.h"

/* Fill the buffer: device-mapper then asks the caller for a larger one. */
int remap_no_room(struct message *m)
{
	if (m->maxlen) {
		memset(m->result, ' ', m->maxlen - 1);
		m->result[m->maxlen - 1] = '\0';
	}
	return 1;
}

int remap_reply(struct message *m, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vscnprintf(m->result, m->maxlen, fmt, args);
	va_end(args);
	return 1;
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
	if (rd->has_key && rd->table.marked &&
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
		return remap_no_room(m);
	r = remap_parse_u64(m->argv[1], &start);
	if (!r)
		r = remap_parse_u64(m->argv[2], &len);
	if (!r)
		r = remap_parse_range(m->argv[3], 1, REMAP_MAX_FENCE_MS, &ms);
	if (!r)
		r = remap_fence_add(m->rt, start, len, ms, &id);
	return r ?: remap_reply(m, "fence %u\n", id);
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

static int ack_flush(struct message *m)
{
	remap_flush_forget(m->rt->rd);
	return 0;
}

/* retry and release: decide the held pieces of a range */
static int decide(struct message *m)
{
	bool retry = !strcmp(m->argv[0], "retry");
	u64 start, len;
	int r;

	if (m->maxlen < REPLY_ROOM)
		return remap_no_room(m);
	r = remap_parse_u64(m->argv[1], &start);
	if (!r)
		r = remap_parse_u64(m->argv[2], &len);
	if (!r && (!len || len > U64_MAX - start))
		r = -ERANGE;
	if (r)
		return r;
	return remap_reply(m, "%u\n",
			   remap_decide(m->rt->rd, start, start + len,
					retry ? V_REDRIVE : V_RELEASED));
}

static const struct command {
	const char *name;
	unsigned int min, max;		/* words, with the name */
	bool managed;			/* unknown to a plain device */
	int (*run)(struct message *m);
} commands[] = {
	{ "add_remap", 4, 7, false, remap_add },
	{ "remove_remap", 2, 3, false, remap_remove },
	{ "clear_all", 1, 2, false, remap_clear },
	{ "load", 2, 2, true, remap_load },
	{ "ready", 3, 3, true, remap_ready },
	{ "lease", 2, 2, true, lease },
	{ "secret", 2, 2, true, secret },
	{ "fence", 4, 4, true, fence },
	{ "seal", 2, 2, true, seal },
	{ "unfence", 2, 2, true, unfence },
	{ "retry", 3, 3, true, decide },
	{ "release", 3, 3, true, decide },
	{ "ack_flush", 1, 1, true, ack_flush },
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

/* Messages that change no mapping; -ENOMSG if it is not one of them. */
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
			return remap_no_room(m);
		if (errors)
			remap_errors(rd, n, m->result, m->maxlen);
		else
			return remap_reply_dump(rd, n, m->result, m->maxlen);
		return 1;
	}
	if (!strcmp(what, "clear_stats")) {
		if (m->argc != 1)
			return -EINVAL;
		if (m->maxlen < REPLY_ROOM)
			return remap_no_room(m);
		remap_clear_stats(rd);
		return remap_done(m, "Statistics cleared\n");
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
