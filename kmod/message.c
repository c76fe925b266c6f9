// SPDX-License-Identifier: GPL-2.0-only
/*
 * Messages. The result buffer may be the memory that the words of the message
 * are in, so every handler is done with its words before it writes a reply; and
 * a caller whose buffer is too small sends the message again, so nothing changes
 * before there is room for the reply.
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

static int known(struct message *m)
{
	return remap_reply_known(m->rt, m->argv[0], m->result, m->maxlen);
}

static int errors(struct message *m)
{
	u64 since;
	int r = remap_parse_u64(m->argv[1], &since);

	if (r)
		return r;
	remap_errors(m->rt->rd, since, m->result, m->maxlen);
	return 1;
}

static int dump(struct message *m)
{
	u64 from;
	int r = remap_parse_u64(m->argv[1], &from);

	if (r)
		return r;
	return remap_reply_dump(m->rt->rd, from, m->result, m->maxlen);
}

static int fences(struct message *m)
{
	remap_reply_fences(m->rt->rd, m->result, m->maxlen);
	return 1;
}

static int watches(struct message *m)
{
	remap_reply_watches(m->rt->rd, m->result, m->maxlen);
	return 1;
}

static int clear_stats(struct message *m)
{
	remap_clear_stats(m->rt->rd);
	return remap_done(m, "Statistics cleared\n");
}

static int lease(struct message *m)
{
	struct remap_device *rd = m->rt->rd;
	bool reads = m->argc > 2;
	u64 ms;
	int r = remap_parse_range(m->argv[1], 0, REMAP_MAX_LEASE_MS, &ms);

	if (r)
		return r;
	if (reads && strcmp(m->argv[2], "reads"))
		return -EINVAL;
	spin_lock_irq(&rd->lock);
	WRITE_ONCE(rd->hold_reads, reads);
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

/* <start> <len> <ms> */
static int bounded_range(struct message *m, u32 max_ms, u64 *start, u64 *len, u32 *ms)
{
	u64 v;
	int r = remap_parse_u64(m->argv[1], start);

	if (!r)
		r = remap_parse_u64(m->argv[2], len);
	if (!r)
		r = remap_parse_range(m->argv[3], 1, max_ms, &v);
	if (!r)
		*ms = v;
	return r;
}

static int fence(struct message *m)
{
	u64 start, len;
	u32 ms, id;
	int r = bounded_range(m, REMAP_MAX_FENCE_MS, &start, &len, &ms);

	if (!r)
		r = remap_fence_add(m->rt, start, len, ms, &id);
	return r ?: remap_reply(m, "fence %u\n", id);
}

static int watch(struct message *m)
{
	u64 start, len;
	u32 ms, id;
	int r = bounded_range(m, REMAP_MAX_WATCH_MS, &start, &len, &ms);

	if (!r)
		r = remap_watch_add(m->rt, start, len, ms, &id);
	return r ?: remap_reply(m, "watch %u\n", id);
}

static int unwatch(struct message *m)
{
	u64 id;

	return remap_parse_u64(m->argv[1], &id) ?:
	       remap_watch_end(m->rt->rd, id);
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

/* The owner flushes a member itself: begin, and how it ended. */
static int flush(struct message *m)
{
	const char *word = m->argv[1];
	u64 n;
	int r = remap_parse_range(m->argv[2], 0, 63, &n);

	if (!r && n % 16 > REMAP_MAX_SPARES)
		r = -ERANGE;
	if (r)
		return r;
	if (!strcmp(word, "begin"))
		r = remap_own_flush_begin(m->rt->rd, n);
	else if (!strcmp(word, "done") || !strcmp(word, "failed"))
		remap_own_flush_end(m->rt->rd, n, *word == 'f');
	else
		r = -EINVAL;
	return r;
}

/* retry and release: decide the held pieces of a range */
static int decide(struct message *m)
{
	bool retry = !strcmp(m->argv[0], "retry");
	u64 start, len;
	int r;

	if (m->argc > 3 && (retry || strcmp(m->argv[3], "reads")))
		return -EINVAL;
	r = remap_parse_u64(m->argv[1], &start);
	if (!r)
		r = remap_parse_u64(m->argv[2], &len);
	if (!r && (!len || len > U64_MAX - start))
		r = -ERANGE;
	if (r)
		return r;
	return remap_reply(m, "%u\n",
			   remap_decide(m->rt->rd, start, start + len,
					retry ? V_REDRIVE : V_RELEASED,
					m->argc > 3));
}

static int run_command(struct message *m, bool owner);

static int instance_word(struct message *m)
{
	u64 instance;
	int r = remap_parse_hex64(m->argv[1], &instance);

	return r ?: instance == m->rt->rd->instance ? 0 : -ESTALE;
}

/* own <instance> <token> */
static int own(struct message *m)
{
	struct remap_device *rd = m->rt->rd;
	u64 token;
	int r = instance_word(m) ?: remap_parse_hex64(m->argv[2], &token);

	if (!r) {
		rd->token = token;
		rd->owned = true;
		remap_own_flush_lost(rd);
	}
	return r;
}

/* as <instance> <token> <message...> */
static int as_owner(struct message *m)
{
	struct remap_device *rd = m->rt->rd;
	u64 token;
	int r = instance_word(m);

	if (!r && (remap_parse_hex64(m->argv[2], &token) || !rd->owned ||
		   token != rd->token))
		r = -EPERM;
	if (r)
		return r;
	m->argc -= 3;
	m->argv += 3;
	return run_command(m, true);
}

/* Who may send a message, and to which devices. */
enum who {
	ASK,		/* everybody */
	CHANGE,		/* everybody to a plain device, the owner to a managed one */
	OWNER,		/* the owner; there is none of a plain device */
	CLAIM,		/* everybody; there is no owner of a plain device */
};

static const struct command {
	const char *name;
	unsigned int min, max;	/* words, with the name */
	unsigned int more;	/* words that only an owner may add */
	enum who who;
	unsigned int room;	/* that its reply needs, if it cannot be sent again */
	int (*run)(struct message *m);
} commands[] = {
	{ "help", 1, 1, 0, ASK, 0, known },
	{ "status", 1, 1, 0, ASK, 0, known },
	{ "stats", 1, 1, 0, ASK, 0, known },
	{ "health", 1, 1, 0, ASK, 0, known },
	{ "errors", 2, 2, 0, ASK, 4 * REPLY_ROOM, errors },
	{ "dump", 2, 2, 0, ASK, 4 * REPLY_ROOM, dump },
	{ "fences", 1, 1, 0, ASK, 0, fences },
	{ "watches", 1, 1, 0, ASK, 0, watches },
	{ "clear_stats", 1, 1, 0, ASK, REPLY_ROOM, clear_stats },
	{ "add_remap", 4, 5, 2, CHANGE, REPLY_ROOM, remap_add },
	{ "remove_remap", 2, 2, 1, CHANGE, REPLY_ROOM, remap_remove },
	{ "clear_all", 1, 1, 1, CHANGE, REPLY_ROOM, remap_clear },
	{ "load", 2, 2, 0, OWNER, 0, remap_load },
	{ "ready", 3, 3, 0, OWNER, 0, remap_ready },
	{ "lease", 2, 3, 0, OWNER, 0, lease },
	{ "secret", 2, 2, 0, OWNER, 0, secret },
	{ "fence", 4, 4, 0, OWNER, REPLY_ROOM, fence },
	{ "seal", 2, 2, 0, OWNER, 0, seal },
	{ "unfence", 2, 2, 0, OWNER, 0, unfence },
	{ "watch", 4, 4, 0, OWNER, REPLY_ROOM, watch },
	{ "unwatch", 2, 2, 0, OWNER, 0, unwatch },
	{ "retry", 3, 3, 0, OWNER, REPLY_ROOM, decide },
	{ "release", 3, 4, 0, OWNER, REPLY_ROOM, decide },
	{ "flush", 3, 3, 0, OWNER, 0, flush },
	{ "ack_flush", 1, 1, 0, OWNER, 0, ack_flush },
	{ "own", 3, 3, 0, CLAIM, 0, own },
	{ "as", 4, UINT_MAX, 0, CLAIM, 0, as_owner },
};

static const struct command *command_find(const char *name)
{
	const struct command *c;

	for (c = commands; c < commands + ARRAY_SIZE(commands); c++)
		if (!strcmp(name, c->name))
			return c;
	return NULL;
}

static bool number_of_words(struct message *m, const struct command *c)
{
	unsigned int max = c->max + (m->rt->managed ? c->more : 0);

	if (m->argc > max)
		m->bad = m->argv[max];
	return m->argc >= c->min && m->argc <= max;
}

/*
 * On a plain device whatever follows a name is a number, and the first one of a
 * change is a sector of main. Checked before the rest.
 */
static int plain_words(struct message *m, const struct command *c)
{
	unsigned int i;
	u64 v;
	int r;

	for (i = 1; i < m->argc; i++) {
		r = remap_parse_u64(m->argv[i], &v);
		if (!r && i == 1 && c->who == CHANGE && v >= m->rt->limits.main_len)
			r = -ERANGE;
		if (r) {
			m->bad = m->argv[i];
			return r;
		}
	}
	return 0;
}

/* ctl held */
static int run_command(struct message *m, bool owner)
{
	const struct command *c = command_find(m->argv[0]);
	bool managed = m->rt->managed;
	int r;

	if (!c || (owner && (c->who == ASK || c->who == CLAIM)))
		return -EINVAL;
	if (!managed && (c->who == OWNER || c->who == CLAIM))
		return -EOPNOTSUPP;
	if (managed && !owner && (c->who == OWNER || c->who == CHANGE))
		return -EPERM;
	if (!number_of_words(m, c))
		return -EINVAL;
	r = managed ? 0 : plain_words(m, c);
	if (r)
		return r;
	return m->maxlen < c->room ? remap_no_room(m) : c->run(m);
}

/* The word of an add_remap that leads outside of a device. */
static const char *outside(struct message *m)
{
	const struct remap_limits *l = &m->rt->limits;
	u64 main, spare, len, index = 0;

	if (remap_parse_u64(m->argv[1], &main) ||
	    remap_parse_u64(m->argv[2], &spare) ||
	    remap_parse_range(m->argv[3], 1, U32_MAX, &len))
		return m->argv[3];
	if (m->argc > 4 && (remap_parse_u64(m->argv[4], &index) ||
			    index >= l->spares))
		return m->argv[4];
	if (len > l->main_len - main)
		return m->argv[3];
	return spare < l->spare_len[index] ? m->argv[3] : m->argv[2];
}

/* In the reference's words. */
static const char *reason(const struct message *m, const struct command *c, int r)
{
	if (!c)
		return "Unknown command";
	switch (r) {
	case -ENOENT:
		return "Remap not found";
	case -ERANGE:
	case -ENODEV:
		return c->run == remap_add ? "Invalid sector range" :
		       c->run == remap_remove ? "Invalid sector" :
						"Invalid argument";
	case -EEXIST:
		return "Overlaps an existing remap";
	case -EBUSY:
		return "Another table is loaded";
	case -ENOMEM:
		return "Out of memory";
	case -EIO:
		return "Device I/O error";
	case -EOPNOTSUPP:
		return "Operation not supported";
	}
	if (m->argc < c->min || m->argc > c->max)
		return "Invalid argument count";
	return "Invalid argument";
}

/* The reference's codes; its -12 and -22 are errnos, which follow anyway. */
static int code(const struct command *c, int r)
{
	if (!c)
		return -1;
	switch (r) {
	case -ENOMEM:
		return -3;
	case -EIO:
		return -4;
	case -EOPNOTSUPP:
		return -5;
	}
	return -2;
}

static int shown_len(const char *word)
{
	return strnlen(word, 64);
}

/*
 * What a plain device refuses goes to the log, with the word that is wrong if
 * it is one. A word may hold anything, and is escaped.
 */
static void log_refusal(struct message *m, int r)
{
	const struct command *c = command_find(m->argv[0]);
	const char *name = m->argv[0];

	if (!m->bad && c && c->run == remap_add && (r == -ERANGE || r == -ENODEV))
		m->bad = outside(m);
	if (m->bad)
		pr_info(REMAP_LOG "%*pE failed: %s: '%*pE' (code %d, errno %d)\n",
			shown_len(name), name, reason(m, c, r),
			shown_len(m->bad), m->bad, code(c, r), r);
	else
		pr_info(REMAP_LOG "%*pE failed: %s (code %d, errno %d)\n",
			shown_len(name), name, reason(m, c, r), code(c, r), r);
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
	int r;

	mutex_lock(&rt->rd->ctl);
	r = run_command(&m, false);
	mutex_unlock(&rt->rd->ctl);
	memalloc_noio_restore(noio);
	if (r < 0 && !rt->managed)
		log_refusal(&m, r);
	return r;
}
