/* SPDX-License-Identifier: GPL-2.0-only */
/* A message on its way: shared by message.c and change.c. */
#ifndef REMAP_MESSAGE_H
#define REMAP_MESSAGE_H

#include "remap.h"

/* Room that any one-line reply fits in. */
#define REPLY_ROOM 160

struct message {
	struct remap_target *rt;
	unsigned int argc;
	char **argv;
	char *result;
	unsigned int maxlen;
	const char *bad;	/* the word that a refusal is about, if it is one */
};

int remap_no_room(struct message *m);
__printf(2, 3) int remap_reply(struct message *m, const char *fmt, ...);

/* On a plain device what was done goes to the log too. */
#define remap_done(m, fmt, ...)						\
({									\
	if (!(m)->rt->managed)						\
		pr_info(REMAP_LOG fmt, ##__VA_ARGS__);			\
	remap_reply(m, REMAP_LOG fmt, ##__VA_ARGS__);				\
})

/* change.c: all with ctl held */
int remap_add(struct message *m);
int remap_remove(struct message *m);
int remap_clear(struct message *m);
int remap_load(struct message *m);
int remap_ready(struct message *m);

#endif
