#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Boot the module in User Mode Linux with KASAN and lockdep and run its cases.
#   uml.sh [case...]
# The host's file system is the guest's root, read-only. Nothing can hang: the
# kernel is killed after UML_TIMEOUT seconds.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
out=$here/out
mkdir -p "$out"
tree=$("$here/kernel.sh" uml)

# The module is built from a copy, so that a build for another kernel beside it
# is left alone. KMOD: the module's source, if it is not the project's. Only what
# differs is copied and compiled.
kmod=${KMOD:-$here/../../kmod}
build=$out/uml-kmod
mkdir -p "$build"
for file in "$kmod"/*.[ch] "$kmod/Makefile"; do
	cmp -s "$file" "$build/${file##*/}" || cp "$file" "$build"
done
compile() { # <folder>
	make -C "$tree" ARCH=um SUBARCH=x86_64 M="$1" -j"${JOBS:-2}" modules >"$1.log" 2>&1 || {
		cat "$1.log" >&2
		exit 1
	}
}
compile "$build"
kunit=$out/uml-kunit
rm -rf "$kunit"
cp -r "$here/kunit" "$kunit"
cp "$kmod"/table.[ch] "$kmod"/index.[ch] "$kmod"/compat.h "$kunit"
compile "$kunit"
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
# UML itself walks a maple tree without RCU when it clones an address space
# (6.1, arch/um/kernel/tlb.c); that complaint is its own, every other one is ours.
complaints=$(awk '
	/suspicious RCU usage/ { rcu = NR; line = $0 }
	rcu && NR == rcu + 3 { if (!/lib\/maple_tree.c/) print line ": " $0; rcu = 0 }
	/suspicious RCU usage/ { next }
	/KASAN:|BUG:|^WARNING:|Oops|Kernel panic|possible (circular|recursive|irq)|inconsistent lock state|blocked for more than|scheduling while atomic|sleeping function|DEBUG_LOCKS_WARN/
' "$log")
if [ -n "$complaints" ]; then
	echo "$complaints"
	echo "FAIL the kernel complained, see $log"
	failed=$((failed + 1))
fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
