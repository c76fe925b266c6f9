// SPDX-License-Identifier: GPL-2.0-only
/*
 * What is done for all devices now and then: samples of their I/O for the error
 * rate, and collection of memory that they no longer need. The timers are
 * deferrable: no CPU wakes up for them. They run while there are devices.
 */
#include <linux/moduleparam.h>
#include <linux/sched/mm.h>

#include "remap.h"

#define MAX_GC_INTERVAL	86400

static int gc_interval = 60;

static void sample_work(struct work_struct *work);
static void collect_work(struct work_struct *work);
static DECLARE_DEFERRABLE_WORK(sample, sample_work);
static DECLARE_DEFERRABLE_WORK(collect, collect_work);

static unsigned long until_collect(void)
{
	return READ_ONCE(gc_interval) * HZ;
}

static void sample_work(struct work_struct *work)
{
	if (remap_each_device(remap_sample))
		schedule_delayed_work(&sample, REMAP_SAMPLE_SECONDS * HZ);
}

static void collect_work(struct work_struct *work)
{
	/* With ctl held, as in a message: we may be what the system swaps to. */
	unsigned int noio = memalloc_noio_save();
	bool any = remap_each_device(remap_collect);

	memalloc_noio_restore(noio);
	if (any)
		schedule_delayed_work(&collect, until_collect());
}

/* There is a device. */
void remap_periodic_start(void)
{
	schedule_delayed_work(&sample, REMAP_SAMPLE_SECONDS * HZ);
	schedule_delayed_work(&collect, until_collect());
}

/* There is none any more. */
void remap_periodic_stop(void)
{
	cancel_delayed_work_sync(&sample);
	cancel_delayed_work_sync(&collect);
}

static int set_gc_interval(const char *val, const struct kernel_param *kp)
{
	int seconds;

	if (kstrtoint(val, 10, &seconds) || seconds < 1 || seconds > MAX_GC_INTERVAL)
		return -EINVAL;
	WRITE_ONCE(gc_interval, seconds);
	/* Not behind remap_periodic_stop(): the module cannot go meanwhile. */
	if (try_module_get(THIS_MODULE)) {
		if (delayed_work_pending(&collect))
			mod_delayed_work(system_wq, &collect, until_collect());
		module_put(THIS_MODULE);
	}
	return 0;
}

static const struct kernel_param_ops gc_interval_ops = {
	.set = set_gc_interval,
	.get = param_get_int,
};

module_param_cb(gc_interval, &gc_interval_ops, &gc_interval, 0644);
__MODULE_PARM_TYPE(gc_interval, "int");
MODULE_PARM_DESC(gc_interval, "Seconds between collections of memory no longer needed (1..86400, default 60)");
