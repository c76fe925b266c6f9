#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Torture the module on two processors, in a preemptible kernel with KASAN,
# lockdep and kmemleak, under QEMU without help of the hardware.
#   smp.sh [seconds [seed]]
# It may take four times as long until everything has been done once. Nothing can
# hang: the machine is killed ten minutes later. KMOD: the module's source, if it
# is not the project's.
set -eu

seconds=${1:-45}
seed=${2:-1}
here=$(cd "$(dirname "$0")" && pwd)
out=$here/out
mkdir -p "$out"
tree=$("$here/kernel.sh" smp)

kmod=${KMOD:-$here/../../kmod}
build=$out/smp-kmod
mkdir -p "$build"
for file in "$kmod"/*.[ch] "$kmod/Makefile"; do
	cmp -s "$file" "$build/${file##*/}" || cp "$file" "$build"
done
make -C "$tree" ARCH=x86_64 M="$build" -j"${JOBS:-2}" modules >"$out/smp-module.log" 2>&1 || {
	cat "$out/smp-module.log" >&2
	exit 1
}
make -s -C "$here" out/torture

"$tree/usr/gen_init_cpio" - >"$out/smp.cpio" <<EOF
dir /dev 755 0 0
nod /dev/console 600 0 0 c 5 1
file /init $out/torture 755 0 0
file /dm_remap_v4_real.ko $build/dm_remap_v4_real.ko 644 0 0
EOF

log=$out/smp-console.log
rm -f "$log"
timeout -k 5 $((4 * seconds + 600)) qemu-system-x86_64 -accel tcg,thread=multi -smp 2 -m 1024 \
	-nodefaults -no-user-config -display none -serial "file:$log" -no-reboot \
	-kernel "$tree/arch/x86/boot/bzImage" -initrd "$out/smp.cpio" \
	-append "console=ttyS0 loglevel=5 no_timer_check panic=-1 reboot=t max_loop=8 null_blk.nr_devices=0 suspend.pm_test_delay=1 sysctl.kernel.hung_task_timeout_secs=240 \
RG_SECONDS=$seconds RG_SEED=$seed" </dev/null || true

grep -aE '^(ok|FAIL|##) ' "$log" | tr -d '\r' || true
passed=$(grep -ac '^ok ' "$log" || true)
failed=$(grep -ac '^FAIL ' "$log" || true)
if ! grep -aq '^END' "$log"; then
	echo "FAIL the test kernel did not finish, see $log"
	failed=$((failed + 1))
fi
complaints=$(grep -aE 'KASAN:|BUG:|WARNING: (CPU|possible|suspicious|inconsistent|bad|held)|Oops|Kernel panic|possible (circular|recursive|irq)|inconsistent lock state|blocked for more than|scheduling while atomic|sleeping function|DEBUG_LOCKS_WARN|ODEBUG|suspicious RCU|rcu_.*stall|soft lockup|held lock freed' "$log" || true)
if [ -n "$complaints" ]; then
	echo "$complaints" | head -20
	echo "FAIL the kernel complained, see $log"
	failed=$((failed + 1))
fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
