#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Build (once) the User Mode Linux kernel that the module tests boot, and print
# its build tree. The cache key covers everything the result depends on: the
# version of the kernel source package and the configuration fragment.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cache=${RG_CACHE:-$HOME/.cache/remap-guardian}
# The oldest that is there: setup installs that of the Debian release.
package=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' 'linux-source-6.*' |
	sed -n 's/^installed //p' | sort -V | head -n 1)
[ -n "$package" ] || { echo "no linux-source package: run tests/rig/setup.sh" >&2; exit 1; }
tarball=/usr/src/$package.tar.xz

version=$(dpkg-query -W -f '${Version}' "$package")
key=$(printf '%s\n' "$version" | cat - "$here/uml.config" | sha256sum | cut -c1-16)
tree=$cache/uml-$key

if [ ! -e "$tree/.built" ]; then
	work=$tree.$$
	trap 'rm -rf "$work"' EXIT
	mkdir -p "$work"
	tar -C "$work" --strip-components=1 -xf "$tarball"
	{
		um="make -C $work ARCH=um SUBARCH=x86_64"
		$um tinyconfig
		(cd "$work" && ARCH=um SUBARCH=x86_64 scripts/kconfig/merge_config.sh -m .config "$here/uml.config")
		$um olddefconfig
		$um -j"${JOBS:-2}" linux modules
	} >"$cache/uml-build.log" 2>&1 || {
		tail -20 "$cache/uml-build.log" >&2
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
