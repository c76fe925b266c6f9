#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Build the module for User Mode Linux, and print the folder it is in. KMOD: the
# module's source, if it is not the project's.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
tree=$("$here/kernel.sh" uml)

# The module is built from a copy, so that a build for another kernel beside it
# is left alone. Only what differs is copied and compiled.
kmod=${KMOD:-$here/../../kmod}
build=$here/out/uml-kmod
mkdir -p "$build"
# One at a time.
exec 9>"$build.lock"
flock 9
for file in "$kmod"/*.[ch] "$kmod/Makefile"; do
	cmp -s "$file" "$build/${file##*/}" || cp "$file" "$build"
done
make -C "$tree" ARCH=um SUBARCH=x86_64 M="$build" -j"${JOBS:-2}" modules >"$build.log" 2>&1 || {
	cat "$build.log" >&2
	exit 1
}
echo "$build"
