#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Boot the module in User Mode Linux with KASAN and lockdep and run its cases.
#   uml.sh [case...]
# The host's file system is the guest's root, read-only. Nothing can hang: the
# kernel is killed after UML_TIMEOUT seconds. KMOD: the module's source, if it is
# not the project's.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
out=$here/out
mkdir -p "$out"
tree=$("$here/kernel.sh" uml)

"$here/uml-module.sh" >/dev/null
kmod=${KMOD:-$here/../../kmod}
kunit=$out/uml-kunit
rm -rf "$kunit"
cp -r "$here/kunit" "$kunit"
cp "$kmod"/table.[ch] "$kmod"/index.[ch] "$kmod"/compat.h "$kunit"
make -C "$tree" ARCH=um SUBARCH=x86_64 M="$kunit" -j"${JOBS:-2}" modules >"$kunit.log" 2>&1 || {
	cat "$kunit.log" >&2
	exit 1
}
make -s -C "$here" out/iotool out/bulk out/messages out/ranges

log=$out/uml-console.log
timeout -k 5 "${UML_TIMEOUT:-1800}" "$tree/linux" mem=768M rootfstype=hostfs rootflags=/ ro \
	brd.rd_nr=6 brd.rd_size=32768 panic=-1 console=tty0 con0=null,fd:1 con=null \
	init="$here/uml-init.sh" RG_TESTS="$here" RG_CASES="$(echo "$*" | tr ' ' ,)" RG_SEED="${SEED:-1}" \
	</dev/null >"$log" 2>&1 || true

grep -aE '^(ok [a-z]|FAIL |## |    ok [0-9]| *not ok )' "$log" || true
passed=$(grep -acE '^(ok [a-z]|    ok [0-9])' "$log" || true)
failed=$(grep -acE '^(FAIL | *not ok )' "$log" || true)
if ! grep -aq '^END' "$log"; then
	echo "FAIL the test kernel did not finish, see $log"
	failed=$((failed + 1))
fi
complaints=$(awk -f "$here/uml-complaints.awk" "$log")
if [ -n "$complaints" ]; then
	echo "$complaints"
	echo "FAIL the kernel complained, see $log"
	failed=$((failed + 1))
fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
