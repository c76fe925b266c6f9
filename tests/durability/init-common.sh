# SPDX-License-Identifier: GPL-2.0-only
# What process 1 of the kernel begins with.
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

failed() {
	tail -n 50 /run/daemon.log
	echo "FAIL $*"
	end
}

end() {
	echo END
	"$RG_IOTOOL" poweroff now
}

"$RG_IOTOOL" entropy "$RG_SEED"
insmod "$RG_MODULE" || failed insmod
mkdir "$REMAP_GUARDIAN_STATE_DIR"
