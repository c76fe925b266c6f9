// SPDX-License-Identifier: GPL-2.0-only
/*
 * /sys/kernel/dm_remap: a folder for each device, and the sum of all above them.
 *
 * A folder goes before its device does, and its removal waits for readers that
 * are in a file of it. So a reader takes no lock but shown_lock, which nobody
 * holds while waiting for readers.
 */
#include <linux/kobject.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/sysfs.h>

#include "remap.h"

enum { TOTAL_REMAPS, ACTIVE_REMAPS, HASH_RESIZES, IO_READ, IO_WRITE, IO_ERRORS,
       HEALTH_SCORE, METRICS };

/* Room for the two lines above a metric's values, and for each value's line. */
#define HEAD_ROOM 256
#define LINE_ROOM 96

struct remap_folder {
	struct list_head list;
	struct kobject *kobj;
	struct remap_device *rd;
	u64 v[METRICS];		/* as last measured */
};

static struct kobject *top;
static DEFINE_MUTEX(shown_lock);
static LIST_HEAD(shown);

/* A device that has done nothing, and the sum of all that are gone. */
static const u64 fresh[METRICS] = { [HEALTH_SCORE] = REMAP_FULL_SCORE };
static u64 gone[METRICS] = { [HEALTH_SCORE] = REMAP_FULL_SCORE };

static ssize_t show(struct kobject *kobj, struct kobj_attribute *attr, char *buf);

static struct metric {
	struct kobj_attribute file;
	const char *name;
	const char *type;
	const char *help;
} metrics[METRICS] = {
	[TOTAL_REMAPS] = {
		__ATTR(total_remaps, 0444, show, NULL),
		"dm_remap_remaps_total", "counter", "Remaps ever created.",
	},
	[ACTIVE_REMAPS] = {
		__ATTR(active_remaps, 0444, show, NULL),
		"dm_remap_active_remaps", "gauge", "Remaps in force.",
	},
	[HASH_RESIZES] = {
		__ATTR(hash_resizes, 0444, show, NULL),
		"dm_remap_hash_resizes_total", "counter", "Resizes of the remap table.",
	},
	[IO_READ] = {
		__ATTR(io_read_total, 0444, show, NULL),
		"dm_remap_io_read_total", "counter", "Read operations.",
	},
	[IO_WRITE] = {
		__ATTR(io_write_total, 0444, show, NULL),
		"dm_remap_io_write_total", "counter", "Write operations.",
	},
	[IO_ERRORS] = {
		__ATTR(io_errors, 0444, show, NULL),
		"dm_remap_io_errors_total", "counter", "Failures of members.",
	},
	[HEALTH_SCORE] = {
		__ATTR(health_score, 0444, show, NULL),
		"dm_remap_health_score", "gauge", "Health, 100 is the best.",
	},
};

static void measure(struct remap_folder *f)
{
	struct remap_device *rd = f->rd;
	struct remap_counts c;
	struct remap_report health;

	remap_sum_counts(rd, &c);
	remap_health_now(rd, &health);
	f->v[TOTAL_REMAPS] = READ_ONCE(rd->total_remaps);
	f->v[ACTIVE_REMAPS] = remap_active(rd);
	f->v[HASH_RESIZES] = READ_ONCE(rd->resizes);
	f->v[IO_READ] = c.reads;
	f->v[IO_WRITE] = c.writes;
	f->v[IO_ERRORS] = c.errors;
	f->v[HEALTH_SCORE] = health.score;
}

/* Counters add up, the worst health is that of all. */
static void add(u64 *sum, const struct remap_folder *f)
{
	unsigned int i;

	for (i = 0; i < METRICS; i++)
		if (i != HEALTH_SCORE)
			sum[i] += f->v[i];
	sum[HEALTH_SCORE] = min(sum[HEALTH_SCORE], f->v[HEALTH_SCORE]);
}

static bool in_folder(const struct remap_folder *f, const struct kobject *kobj)
{
	return kobj == top || kobj == f->kobj;
}

static ssize_t show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	struct metric *m = container_of(attr, struct metric, file);
	struct remap_folder *f;
	bool found = kobj == top;
	u64 sum[METRICS];

	mutex_lock(&shown_lock);
	memcpy(sum, kobj == top ? gone : fresh, sizeof(sum));
	list_for_each_entry(f, &shown, list)
		if (in_folder(f, kobj)) {
			measure(f);
			add(sum, f);
			found = true;
		}
	mutex_unlock(&shown_lock);
	return found ? sysfs_emit(buf, "%llu\n", sum[m - metrics]) : -ENODEV;
}

/* shown_lock held. Prometheus' text format, a line for each device. */
static size_t render(struct kobject *kobj, char *text, size_t room)
{
	struct remap_folder *f;
	struct metric *m;
	size_t n = 0;

	list_for_each_entry(f, &shown, list)
		measure(f);
	for (m = metrics; m < metrics + METRICS; m++) {
		n += scnprintf(text + n, room - n, "# HELP %s %s\n# TYPE %s %s\n",
			       m->name, m->help, m->name, m->type);
		/*
		 * Always as wide: who needs several reads gets each part from
		 * another rendering, and they have to fit together.
		 */
		list_for_each_entry(f, &shown, list)
			if (in_folder(f, kobj))
				n += scnprintf(text + n, room - n,
					       "%s{device=\"%s\"} %20llu\n",
					       m->name, kobject_name(f->kobj),
					       f->v[m - metrics]);
	}
	return n;
}

/* A binary file, because text ones end after a page: some ten devices. */
static ssize_t read_all_stats(struct file *file, struct kobject *kobj,
			      struct bin_attribute *attr, char *buf,
			      loff_t pos, size_t count)
{
	/* A device that is created or goes waits for the lock. */
	unsigned int noio = memalloc_noio_save();
	size_t room;
	ssize_t r = -ENOMEM;
	char *text;

	mutex_lock(&shown_lock);
	room = METRICS * (HEAD_ROOM + LINE_ROOM * list_count_nodes(&shown));
	text = kvmalloc(room, GFP_KERNEL);
	if (text)
		r = memory_read_from_buffer(buf, count, &pos, text,
					    render(kobj, text, room));
	mutex_unlock(&shown_lock);
	memalloc_noio_restore(noio);
	kvfree(text);
	return r;
}

static struct attribute *files[] = {
	&metrics[TOTAL_REMAPS].file.attr,
	&metrics[ACTIVE_REMAPS].file.attr,
	&metrics[HASH_RESIZES].file.attr,
	&metrics[IO_READ].file.attr,
	&metrics[IO_WRITE].file.attr,
	&metrics[IO_ERRORS].file.attr,
	&metrics[HEALTH_SCORE].file.attr,
	NULL
};

static struct bin_attribute all_stats = {
	.attr = { .name = "all_stats", .mode = 0444 },
	.read = read_all_stats,
};

static struct bin_attribute *bin_files[] = { &all_stats, NULL };

static const struct attribute_group group = {
	.attrs = files,
	.bin_attrs = bin_files,
};

int remap_folder_add(struct remap_device *rd)
{
	struct remap_folder *f = kzalloc(sizeof(*f), GFP_KERNEL);
	int r;

	if (!f)
		return -ENOMEM;
	rd->folder = f;
	f->rd = rd;
	f->kobj = kobject_create_and_add(dm_disk(rd->md)->disk_name, top);
	if (!f->kobj) {
		kfree(f);
		return -ENOMEM;
	}
	mutex_lock(&shown_lock);
	list_add_tail(&f->list, &shown);
	mutex_unlock(&shown_lock);
	r = sysfs_create_group(f->kobj, &group);
	if (r)
		remap_folder_remove(rd);
	return r;
}

/* What the device had counted stays in the sums: counters never fall. */
void remap_folder_remove(struct remap_device *rd)
{
	struct remap_folder *f = rd->folder;

	mutex_lock(&shown_lock);
	list_del(&f->list);
	measure(f);
	f->v[ACTIVE_REMAPS] = 0;
	f->v[HEALTH_SCORE] = REMAP_FULL_SCORE;
	add(gone, f);
	mutex_unlock(&shown_lock);
	kobject_put(f->kobj);
	kfree(f);
}

int remap_sysfs_init(void)
{
	int r;

	top = kobject_create_and_add("dm_remap", kernel_kobj);
	if (!top)
		return -ENOMEM;
	r = sysfs_create_group(top, &group);
	if (r)
		kobject_put(top);
	return r;
}

void remap_sysfs_exit(void)
{
	kobject_put(top);
}
