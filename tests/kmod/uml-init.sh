#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Process 1 of the test kernel: mount what is needed, run the cases, power off.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin DM_DISABLE_UDEV=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mkdir -p /dev/mapper
exec </dev/null >/dev/console 2>&1
# Its suites run while it is loaded; their results are on the console.
insmod "$RG_TESTS/out/uml-kunit/dm_remap_kunit.ko" || echo "FAIL insmod of the KUnit suites"
rmmod dm_remap_kunit
insmod "$RG_TESTS/out/uml-kmod/dm_remap_v4_real.ko" || echo "FAIL insmod"
. "$RG_TESTS/uml-cases.sh"
run_cases "$(echo "$RG_CASES" | tr , ' ')"
rmmod dm_remap_v4_real && echo "ok module unloads" || echo "FAIL module unloads"
echo END
"$RG_TESTS/out/iotool" poweroff now
