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
uml) arch="ARCH=um SUBARCH=x86_64" image=linux edit=xstate ;;
smp) arch="ARCH=x86_64" image=bzImage edit= ;;
*) echo "kernel.sh: '$kind' is neither uml nor smp" >&2; exit 1 ;;
esac
config=$here/$kind.config

# User Mode Linux 6.1 keeps 2696 bytes of the extended registers of each of its
# processes. A CPU with AMX has 11008, and its host refuses to set fewer. So many
# lie on the stack that a signal handler runs on, too: uml.config makes that larger.
fp_size=12288
xstate() {
	sed -i "s/DEFINE_LONGS(HOST_FP_SIZE, 2696)/DEFINE_LONGS(HOST_FP_SIZE, $fp_size)/" \
		"$1/arch/x86/um/user-offsets.c"
}

cache=${RG_CACHE:-$HOME/.cache/remap-guardian}
# The oldest that is there: setup installs that of the Debian release.
package=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' 'linux-source-6.*' |
	sed -n 's/^installed //p' | sort -V | head -n 1)
[ -n "$package" ] || { echo "no linux-source package: run tests/rig/setup.sh" >&2; exit 1; }
tarball=/usr/src/$package.tar.xz

version=$(dpkg-query -W -f '${Version}' "$package")
key=$(printf '%s\n' "$version" ${edit:+"$fp_size"} | cat - "$config" | sha256sum | cut -c1-16)
tree=$cache/$kind-$key

if [ ! -e "$tree/.built" ]; then
	work=$tree.$$
	trap 'rm -rf "$work"' EXIT
	mkdir -p "$work"
	tar -C "$work" --strip-components=1 -xf "$tarball"
	[ -z "$edit" ] || "$edit" "$work"
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
