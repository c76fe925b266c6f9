// SPDX-License-Identifier: GPL-2.0-only
/* Device-mapper's control device, without a library: this program is all there is in its kernel. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <linux/dm-ioctl.h>

#include "torture.h"

#define SIZE (DM_REPLY + 1024)

static int control(void)
{
	static _Thread_local int fd = -1;

	if (fd < 0)
		fd = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		die("/dev/mapper/control: %s", strerror(errno));
	return fd;
}

static struct dm_ioctl *request(const char *name, unsigned int flags)
{
	struct dm_ioctl *io = calloc(1, SIZE);

	io->version[0] = DM_VERSION_MAJOR;
	io->data_size = SIZE;
	io->data_start = sizeof(*io);
	io->flags = flags;
	snprintf(io->name, sizeof(io->name), "%s", name);
	return io;
}

static int send(struct dm_ioctl *io, unsigned long what)
{
	return ioctl(control(), what, io) < 0 ? -errno : 0;
}

static int simple(const char *name, unsigned long what, unsigned int flags)
{
	struct dm_ioctl *io = request(name, flags);
	int r = send(io, what);

	free(io);
	return r;
}

int dm_load(const char *name, const struct line *lines, int n)
{
	struct dm_ioctl *io = request(name, 0);
	char *p = (char *)io + io->data_start;
	int r;

	io->target_count = n;
	for (int i = 0; i < n; i++) {
		struct dm_target_spec *t = (struct dm_target_spec *)p;
		size_t room = sizeof(*t) + strlen(lines[i].args) + 1;

		t->sector_start = lines[i].start;
		t->length = lines[i].len;
		snprintf(t->target_type, sizeof(t->target_type), "%s", lines[i].type);
		strcpy(p + sizeof(*t), lines[i].args);
		t->next = (room + 7) & ~7UL;
		p += t->next;
	}
	r = send(io, DM_TABLE_LOAD);
	free(io);
	return r;
}

static const char *node(const char *name)
{
	static _Thread_local char path[64];

	snprintf(path, sizeof(path), "/dev/mapper/%s", name);
	return path;
}

/* There is no udev: the node is made here. */
static int make_node(const char *name)
{
	struct dm_ioctl *io = request(name, 0);
	int r = send(io, DM_DEV_CREATE);

	unlink(node(name));
	if (!r && mknod(node(name), S_IFBLK | 0600, makedev(major(io->dev), minor(io->dev))))
		r = -errno;
	free(io);
	return r;
}

int dm_create(const char *name, const struct line *lines, int n)
{
	int r = make_node(name);

	if (r)
		return r;
	r = dm_load(name, lines, n);
	if (!r)
		r = dm_resume(name);
	if (r)
		simple(name, DM_DEV_REMOVE, 0);
	return r;
}

int dm_resume(const char *name)
{
	return simple(name, DM_DEV_SUSPEND, 0);
}

int dm_suspend(const char *name, bool noflush)
{
	return simple(name, DM_DEV_SUSPEND, DM_SUSPEND_FLAG |
		      (noflush ? DM_NOFLUSH_FLAG | DM_SKIP_LOCKFS_FLAG : 0));
}

int dm_remove(const char *name, bool deferred)
{
	return simple(name, DM_DEV_REMOVE, deferred ? DM_DEFERRED_REMOVE : 0);
}

int dm_clear(const char *name)
{
	return simple(name, DM_TABLE_CLEAR, 0);
}

void dm_swap(const char *name, const struct line *lines, int n)
{
	must(dm_load(name, lines, n), "load of another table");
	must(dm_suspend(name, true), "suspend for another table");
	must(dm_resume(name), "resume with another table");
}

int dm_message(const char *name, uint64_t sector, char *reply, const char *text)
{
	struct dm_ioctl *io = request(name, 0);
	struct dm_target_msg *msg = (void *)((char *)io + io->data_start);
	int r;

	msg->sector = sector;
	snprintf(msg->message, SIZE - io->data_start - sizeof(*msg), "%s", text);
	r = send(io, DM_TARGET_MSG);
	if (!r && reply) {
		*reply = '\0';
		if (io->flags & DM_DATA_OUT_FLAG)
			snprintf(reply, DM_REPLY, "%s", (char *)io + io->data_start);
	}
	free(io);
	return r;
}

int dm_status(const char *name, bool table, char *text)
{
	struct dm_ioctl *io = request(name, DM_NOFLUSH_FLAG | (table ? DM_STATUS_TABLE_FLAG : 0));
	char *p = (char *)io + io->data_start, *t = p;
	int r = send(io, DM_TABLE_STATUS);

	if (!r) {
		for (unsigned int i = 1; i < io->target_count; i++)
			t = p + ((struct dm_target_spec *)t)->next;
		strcpy(text, t + sizeof(struct dm_target_spec));
	}
	free(io);
	return r;
}

int dm_open(const char *name, int flags)
{
	int fd = open(node(name), flags | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}
