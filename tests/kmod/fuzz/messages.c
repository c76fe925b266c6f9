// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mutated messages and table lines to the real module.
 *
 *   messages <words> <tables> <rounds> <seed>
 *
 * A refusal has one of the documented errors and changes nothing: status, remaps,
 * fences and table are the same before and after. What is accepted may change
 * them; that it may not do so for a stranger is checked too. Prints "ok ..." or
 * "FAIL ..." for each device it works on.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../torture/torture.h"

#define NAME "fuzz"
#define LEN 65536
#define TOKEN "00000000000000a1"
#define MAX_LINES 100
#define MAX_TEXT 4000

static struct rnd r;
static char *words[MAX_LINES], *tables[MAX_LINES];
static int nr_words, nr_tables;
static char instance[17];
static unsigned int accepted, refused, bad;

void die(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	printf("FAIL ");
	vprintf(fmt, args);
	putchar('\n');
	exit(1);
}

void must(int error, const char *what)
{
	if (error)
		die("%s: %s", what, strerror(-error));
}

uint64_t rnd(struct rnd *g, uint64_t below)
{
	g->x = g->x * 6364136223846793005ULL + 1442695040888963407ULL;
	return (g->x >> 33) % below;
}

static int read_lines(const char *path, char **lines)
{
	FILE *f = fopen(path, "r");
	char line[1000];
	int n = 0;

	if (!f)
		die("%s: %s", path, strerror(errno));
	while (n < MAX_LINES && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		lines[n++] = strdup(line);
	}
	fclose(f);
	return n;
}

/* ---- mutation ---- */

static const char *odd_word(void)
{
	static const char *const odd[] = {
		"0", "1", "7", "8", "511", "65535", "65536", "65537", "4294967295", "4294967296",
		"9223372036854775807", "9223372036854775808", "18446744073709551608",
		"18446744073709551615", "18446744073709551616", "-1", "+1", "0x10", "1e3", "01",
		"fence=", "fence=1", "fence=0", "fence=4294967296", "marked", "managed", "spare",
		"/dev/ram0", "/dev/ram3", "/dev/nothing", "1:3", ":", ",", "::::", "%s%n", "\\", "\\ ",
		"\xff\xfe", "load", "as", "@x", "0000000000000000", "ffffffffffffffff",
	};

	return odd[rnd(&r, sizeof(odd) / sizeof(odd[0]))];
}

static int split(char *text, char **word)
{
	int n = 0;

	for (char *w; n < 20 && (w = strsep(&text, " "));)
		word[n++] = w;
	return n;
}

/* Replace, remove, double or exchange whole words. */
static void mutate_words(char *to, const char *from)
{
	char copy[MAX_TEXT], *word[32];
	size_t at = 0;
	int n, i, j;

	snprintf(copy, sizeof(copy), "%s", from);
	n = split(copy, word);
	i = rnd(&r, n);
	j = rnd(&r, n);
	switch (rnd(&r, 5)) {
	case 0:
	case 1:
		word[i] = (char *)odd_word();
		break;
	case 2:
		memmove(&word[i], &word[i + 1], (n - i - 1) * sizeof(word[0]));
		n--;
		break;
	case 3:
		memmove(&word[i + 1], &word[i], (n - i) * sizeof(word[0]));
		n++;
		break;
	case 4: {
		char *w = word[i];

		word[i] = word[j];
		word[j] = w;
		break;
	}
	}
	*to = '\0';
	for (i = 0; i < n; i++)
		at += snprintf(to + at, MAX_TEXT - at, "%s%s", i ? " " : "", word[i]);
}

/* Change, insert or cut bytes; now and then make it long. */
static void mutate_bytes(char *text)
{
	size_t n = strlen(text), at = rnd(&r, n + 1);

	switch (rnd(&r, 8)) {
	case 0:
	case 1:
	case 2:
		if (at < n)
			text[at] = 1 + rnd(&r, 255);
		break;
	case 3:
	case 4:
		memmove(text + at + 1, text + at, n - at + 1);
		text[at] = " 0129:,=-\\az"[rnd(&r, 12)];
		break;
	case 5:
	case 6:
		text[at] = '\0';
		break;
	case 7:
		for (size_t i = n; i < n + rnd(&r, 2500) && i < MAX_TEXT - 8; i++)
			text[i] = "0a ,:"[rnd(&r, 5)], text[i + 1] = '\0';
		break;
	}
}

static void put_in(char *to, const char *from)
{
	char *end = to + MAX_TEXT / 2;

	for (; *from && to < end; from++) {
		if (from[0] == '$' && from[1] == 'I')
			to = stpcpy(to, instance), from++;
		else if (from[0] == '$' && from[1] == 'T')
			to = stpcpy(to, TOKEN), from++;
		else
			*to++ = *from;
	}
	*to = '\0';
}

static void mutated(char *text, char **lines, int n)
{
	char other[MAX_TEXT];

	put_in(text, lines[rnd(&r, n)]);
	for (int times = rnd(&r, 4); times; times--) {
		if (rnd(&r, 3)) {
			mutate_words(other, text);
			strcpy(text, other);
		} else {
			mutate_bytes(text);
		}
		if (strlen(text) > MAX_TEXT / 2)
			return;
	}
}

/* ---- the state that a refusal may not change ---- */

static void reply_to(const char *text, char *reply)
{
	must(dm_message(NAME, 0, reply, text), text);
}

/* Without what time alone changes: the state of fences and how long they last. */
static void fences(char *to)
{
	char reply[DM_REPLY], *line, *next = reply;
	unsigned int id;
	unsigned long long start, len;

	reply_to("fences", reply);
	*to = '\0';
	while ((line = strsep(&next, "\n")))
		if (sscanf(line, "fence %u %llu %llu", &id, &start, &len) == 3)
			to += sprintf(to, "fence %u %llu %llu\n", id, start, len);
}

static void snapshot(char *to)
{
	char reply[DM_REPLY];

	must(dm_status(NAME, false, reply), "status");
	to += sprintf(to, "%s\n", reply);
	must(dm_status(NAME, true, reply), "table");
	to += sprintf(to, "%s\n", reply);
	reply_to("dump 0", reply);
	to += sprintf(to, "%s\n", reply);
	fences(to);
}

static bool documented(int error)
{
	static const int known[] = {
		EINVAL, ERANGE, EEXIST, EBUSY, EPERM, ESTALE, EACCES, EBADMSG, EAGAIN, ENOENT,
		ETIME, ENOKEY, EOPNOTSUPP, ENODEV,
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (error == -known[i])
			return true;
	return false;
}

static void complain(const char *what, const char *text, int error)
{
	if (bad++ < 10)
		printf("## %s (%s): %.200s\n", what, strerror(-error), text);
}

static bool asks_only(const char *text)
{
	static const char *const first[] = {
		"help", "status", "stats", "health", "errors", "fences", "dump", "clear_stats",
	};
	size_t n;

	text += strspn(text, " \t\n\v\f\r");
	n = strcspn(text, " \t\n\v\f\r");
	for (size_t i = 0; i < sizeof(first) / sizeof(first[0]); i++)
		if (n == strlen(first[i]) && !strncmp(text, first[i], n))
			return true;
	return false;
}

/* Fences that would end by themselves while we look. */
static void no_fences(bool managed)
{
	char reply[DM_REPLY], text[200], *line, *next = reply;
	unsigned int id;

	if (!managed)
		return;
	reply_to("fences", reply);
	snprintf(text, sizeof(text), "own %s " TOKEN, instance);
	must(dm_message(NAME, 0, NULL, text), text);
	while ((line = strsep(&next, "\n")))
		if (sscanf(line, "fence %u", &id) == 1) {
			snprintf(text, sizeof(text), "as %s " TOKEN " unfence %u", instance, id);
			dm_message(NAME, 0, NULL, text);
		}
}

static void one_message(bool managed, char *before, char *after)
{
	char text[MAX_TEXT + 16], reply[DM_REPLY];
	int error;

	mutated(text, words, nr_words);
	error = dm_message(NAME, 0, reply, text);
	if (!error) {
		accepted++;
		if (managed && !asks_only(text) && !strstr(text, "own") && !strstr(text, TOKEN) &&
		    !strchr(text, '\\'))
			complain("accepted from a stranger", text, 0);
		no_fences(managed);
		snapshot(before);
		return;
	}
	refused++;
	if (!documented(error))
		complain("an error that is not documented", text, error);
	snapshot(after);
	if (strcmp(before, after)) {
		complain("refused, and changed something", text, error);
		strcpy(before, after);
	}
}

/* Beside a live table: one that is refused leaves all as it is, and so does one that is given up. */
static void one_table(char *before, char *after)
{
	char text[MAX_TEXT + 16];
	struct line t = { 0, rnd(&r, 4) ? LEN : rnd(&r, 2 * LEN), "dm-remap-v4", text };

	mutated(text, tables, nr_tables);
	if (dm_load(NAME, &t, 1)) {
		refused++;
	} else {
		accepted++;
		must(dm_clear(NAME), "clear");
	}
	snapshot(after);
	if (strcmp(before, after)) {
		complain("a table that is not live changed something", text, 0);
		strcpy(before, after);
	}
}

static void fuzz(const char *what, const char *args, bool managed, unsigned int rounds)
{
	static char before[4 * DM_REPLY], after[4 * DM_REPLY];
	const struct line t = { 0, LEN, "dm-remap-v4", args };
	char text[DM_REPLY];

	accepted = refused = bad = 0;
	must(dm_create(NAME, &t, 1), "create");
	must(dm_status(NAME, false, text), "status");
	if (sscanf(text, "%*u %*u %*s %*u %16s", instance) != 1)
		die("the status is '%s'", text);
	no_fences(managed);
	snapshot(before);
	for (unsigned int i = 0; i < rounds; i++) {
		if (i % 20 == 0)
			one_table(before, after);
		else
			one_message(managed, before, after);
	}
	must(dm_remove(NAME, false), "remove");
	printf("## %s: %u accepted, %u refused\n", what, accepted, refused);
	if (bad || !accepted || !refused)
		die("%s: %u of %u", what, bad, rounds);
	printf("ok\n");
}

int main(int argc, char **argv)
{
	unsigned int rounds;

	if (argc != 5)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	nr_words = read_lines(argv[1], words);
	nr_tables = read_lines(argv[2], tables);
	rounds = atoi(argv[3]);
	r.x = atoi(argv[4]);
	printf("## seed %s, %u rounds\n", argv[4], rounds);
	fuzz("plain", "/dev/ram0 /dev/ram1 2 spare /dev/ram2", false, rounds);
	fuzz("closed", "/dev/ram0 /dev/ram1 8 managed closed 600000 reserve 8 16 spare /dev/ram2", true, rounds);
	fuzz("managed", "/dev/ram0 /dev/ram1 3 managed hold 100", true, rounds);
	return 0;
}
