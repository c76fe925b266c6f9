#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Process 1 of the kernel of the durability test: a set whose spare lies on dm-log-writes is made, its main's bad places
# are written, and then the set is opened anew from the spare as it was at some moments of the log.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mkdir -p /dev/mapper
exec </dev/null >/dev/console 2>&1
# The daemon keeps a list there, and the host's is not its.
mount -t tmpfs tmpfs /etc
export DM_DISABLE_UDEV=1 REMAP_GUARDIAN_STATE_DIR=/run/state REMAP_GUARDIAN_RUN_DIR=/run/guardian
export REMAP_GUARDIAN_POLICY_DIRS="$RG_POLICIES"
# A daemon is killed and the next one has to have taken over within the lease.
export REMAP_GUARDIAN_LEASE_MS=30000 REMAP_GUARDIAN_HOLD_MS=15000
LOG=/dev/ubda
PLACES="--seed $RG_SEED --places $RG_PLACES"

failed() {
	tail -n 50 /run/daemon.log
	echo "FAIL $*"
	echo END
	"$RG_IOTOOL" poweroff now
}

# Waits for some minutes at most. A process costs more here than what it does.
until_there() {
	tries=0
	until [ -e "$1" ]; do
		[ $tries -lt 1200 ] || failed "$1 does not come"
		tries=$((tries + 1))
		sleep 0.1
	done
}

start() {
	rm -f "$REMAP_GUARDIAN_RUN_DIR/control"
	"$RG_PROGRAM" run >>/run/daemon.log 2>&1 &
	daemon=$!
	until_there $REMAP_GUARDIAN_RUN_DIR/control
}

stop() {
	kill "$daemon"
	wait "$daemon" || failed "the daemon ended with $?"
}

# A main that is bad again wherever it was, since dm-dust mends what is written often enough.
bad_main() {
	dmsetup create main --uuid MAIN --table "0 65536 dust /dev/ram0 0 512"
	# shellcheck disable=SC2086
	"$RG_TOOL" spoil main $PLACES || failed spoil
}

# Written while the daemon is killed and started again.
record() {
	"$RG_TOOL" fill /dev/ram0 /dev/ram1 || failed fill
	bad_main
	dmsetup create spare --uuid SPARE --table "0 $RG_SECTORS log-writes /dev/ram1 $LOG"
	start
	"$RG_PROGRAM" create data --main /dev/mapper/main --spare /dev/mapper/spare || failed create
	# shellcheck disable=SC2086
	"$RG_TOOL" work /dev/mapper/data spare $PLACES &
	work=$!
	for _ in $(seq "$RG_KILLS"); do
		sleep 0.3
		kill -9 "$daemon"
		wait "$daemon"
		start
	done
	wait "$work" || failed "a write failed"
	"$RG_PROGRAM" status data
	stop
	dmsetup remove --retry data spare main || failed remove
	echo "ok all writes to bad places succeeded"
}

# open_as_of <entries>: with a daemon that knows nothing, as on another machine
open_as_of() {
	rm -rf "$REMAP_GUARDIAN_STATE_DIR" /etc/remap-guardian
	mkdir "$REMAP_GUARDIAN_STATE_DIR"
	bad_main
	dmsetup create spare --uuid SPARE --table "0 $RG_SECTORS linear /dev/ram1 0"
	"$RG_TOOL" put $LOG "$1" /dev/mapper/spare || failed put
	start
	until_there /dev/mapper/data
	"$RG_TOOL" look $LOG "$1" /dev/mapper/data --sectors $RG_SECTORS || failed "opened as of entry $1"
	stop
	dmsetup remove --retry data spare main || failed remove
}

"$RG_IOTOOL" entropy "$RG_SEED"
insmod "$RG_MODULE" || failed insmod
mkdir "$REMAP_GUARDIAN_STATE_DIR"
record
# While somebody has it open, what was read of it stays in memory.
exec 9<$LOG
moments=$("$RG_TOOL" choose $LOG "$RG_STARTS") || failed choose
for entries in $moments; do
	open_as_of "$entries"
done
echo "ok opened by the kernel as of $RG_STARTS entries"
echo END
"$RG_IOTOOL" poweroff now
