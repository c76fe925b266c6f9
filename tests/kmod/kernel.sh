#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Build (once) a kernel that the module tests boot, and print its build tree.
#   kernel.sh uml   User Mode Linux, of uml.config
#   kernel.sh smp   x86_64 for QEMU, of smp.config
# The cache key covers everything the result depends on: the version of the
# kernel source package and the configuration fragment.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
kind=$1
case $kind in
uml) arch="ARCH=um SUBARCH=x86_64" image=linux ;;
smp) arch="ARCH=x86_64" image=bzImage ;;
*) echo "kernel.sh: '$kind' is neither uml nor smp" >&2; exit 1 ;;
esac
config=$here/$kind.config
cache=${RG_CACHE:-$HOME/.cache/remap-guardian}
# The oldest that is there: setup installs that of the Debian release.
package=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' 'linux-source-6.*' |
	sed -n 's/^installed //p' | sort -V | head -n 1)
[ -n "$package" ] || { echo "no linux-source package: run tests/rig/setup.sh" >&2; exit 1; }
tarball=/usr/src/$package.tar.xz

version=$(dpkg-query -W -f '${Version}' "$package")
key=$(printf '%s\n' "$version" | cat - "$config" | sha256sum | cut -c1-16)
tree=$cache/$kind-$key

if [ ! -e "$tree/.built" ]; then
	work=$tree.$$
	trap 'rm -rf "$work"' EXIT
	mkdir -p "$work"
	tar -C "$work" --strip-components=1 -xf "$tarball"
	{
		build="make -C $work $arch"
		$build tinyconfig
		(cd "$work" && env $arch scripts/kconfig/merge_config.sh -m .config "$config")
		$build olddefconfig
		$build -j"${JOBS:-2}" $image modules
	} >"$cache/$kind-build.log" 2>&1 || {
		tail -20 "$cache/$kind-build.log" >&2
		exit 1
	}
	touch "$work/.built"
	# Paths inside a kernel tree are not absolute where it matters, so the
	# finished tree may be renamed; a parallel builder that was first wins.
	mv -T "$work" "$tree" 2>/dev/null || [ -e "$tree/.built" ]
	trap - EXIT
	rm -rf "$work"
fi
echo "$tree"
