#!/usr/bin/env bash
# Makes this machine able to build remap-guardian and to run it in guests.
#
#   setup.sh          packages, then the guest: what is there already is left alone
#   setup.sh where    print the folder of this checkout's guest (root.img, kernels/)
#
# The guest is Debian of the same release as this machine, so that what is built here runs there. It is
# cached in ${RG_CACHE:-~/.cache/remap-guardian}, under a hash of everything that makes it.
set -euo pipefail

rig=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${RG_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/remap-guardian}
sudo=$([ "$(id -u)" = 0 ] || echo sudo)
# shellcheck source=/dev/null
release=$(. /etc/os-release && echo "${VERSION_CODENAME:-unknown}")

say() { printf '==> %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }
listed() { sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$1"; }

kernels() { # metapackages, the release's own kernel first
	echo linux-image-amd64
	[ "$release" != bookworm ] || echo linux-image-6.12-amd64
}

guest_folder() {
	local inputs
	inputs=$({
		echo "$release"
		kernels
		cd "$rig"
		cat setup.sh customize guest-packages
		find guest -type f -print0 | sort -z | xargs -0 tail -n +1
	} | sha256sum)
	echo "$cache/guest-$release-${inputs:0:16}"
}

# --- packages on this machine -------------------------------------------------------------------------------

missing_packages() {
	local installed
	installed=$(dpkg-query -W -f '${db:Status-Status} ${binary:Package}\n' | sed -n 's/^installed \([^:]*\).*/\1/p')
	listed "$rig/host-packages" | grep -vxF -f <(echo "$installed") || true
}

apt_install() {
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"
}

# qemu-system-x86 has to come from the suite that the machine's qemu-utils came from.
qemu_suite() {
	local version
	version=$(dpkg-query -W -f '${Version}' qemu-utils 2>/dev/null || true)
	[[ $version != *~bpo* ]] || echo "$release-backports"
}

# The backports suite, beside the release on the same mirror.
add_backports() {
	! apt-cache policy | grep -q "n=$release-backports" || return 0
	local mirror
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Release: $release" 'Component: main' | head -n 1)
	[ -n "$mirror" ] || die "no apt source for $release: is this a Debian machine?"
	say "adding $release-backports beside $release (the installed qemu-utils came from there)"
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $release-backports main" |
		$sudo tee /etc/apt/sources.list.d/remap-guardian-backports.list >/dev/null
	$sudo apt-get update -q
}

install_packages() {
	local missing suite
	missing=$(missing_packages)
	if [ -z "$missing" ]; then
		say "packages: all there"
		return
	fi
	say "packages: installing" $missing
	[ -z "$sudo" ] || command -v sudo >/dev/null || die "run this as root, or install sudo"
	$sudo apt-get update -q
	suite=$(qemu_suite)
	if [ -n "$suite" ] && grep -q '^qemu' <<<"$missing"; then
		add_backports
		apt_install -t "$suite" $(grep '^qemu' <<<"$missing")
		missing=$(missing_packages)
	fi
	[ -z "$missing" ] || apt_install $missing
}

# --- the guest ----------------------------------------------------------------------------------------------

# The release's suites as this machine's own apt knows them.
guest_sources() {
	local keyring=/usr/share/keyrings/debian-archive-keyring.gpg suite
	for suite in "$release" "$release-updates" "$release-security"; do
		apt-get indextargets --format "deb [signed-by=$keyring] \$(REPO_URI) \$(RELEASE) \$(COMPONENT)" \
			'Created-By: Packages' "Release: $suite" 'Component: main' 'Architecture: amd64'
	done | sort -u
}

# Parts of the kernel packages that no guest here uses: three quarters of their size.
unused_modules=(sound net/wireless net/bluetooth drivers/{gpu,media,net,infiniband,iio,staging,usb,hid,input,isdn,bluetooth,hwmon,mmc,mtd,platform,thunderbolt,video,firewire,edac,comedi})

make_root() { # <folder> <sources file>
	local root=$1 sources=$2 options=() module proxy
	for module in "${unused_modules[@]}"; do
		options+=(--dpkgopt="path-exclude=*/lib/modules/*/kernel/$module/*")
	done
	for module in doc man locale info; do
		options+=(--dpkgopt="path-exclude=/usr/share/$module/*")
	done
	while read -r proxy; do
		options+=(--aptopt="$proxy")
	done < <(apt-config dump | grep -i '^Acquire::https\?::Proxy ' || true)

	# The agent's files go in before the kernels, whose installation makes the initrd.
	$sudo mmdebstrap --mode=root --format=directory --variant=minbase "${options[@]}" \
		--aptopt='Acquire::Languages "none"' \
		--include="$( { listed "$rig/guest-packages"; kernels; } | paste -sd, )" \
		--essential-hook="cp -a --no-preserve=ownership '$rig/guest/.' \"\$1\"" \
		--customize-hook="$rig/customize \"\$1\"" \
		"$release" "$root" "$sources"
}

# Kernels, initrds and header trees move out of the root file system into $2/kernels/<version>/.
take_kernels() { # <root> <folder>
	local root=$1 folder=$2 version out
	for version in $(ls "$root/lib/modules"); do
		out=$folder/kernels/$version
		mkdir -p "$out"
		$sudo cp "$root/boot/vmlinuz-$version" "$out/vmlinuz"
		# An initrd that is not packed boots quicker under emulation.
		$sudo cat "$root/boot/initrd.img-$version" | unpack >"$out/initrd"
	done
	for deb in "$root"/headers/*.deb; do
		dpkg-deb -x "$deb" "$folder/headers"
	done
	for version in "$folder"/kernels/*; do
		version=${version##*/}
		ln -s "../../headers/usr/src/linux-headers-$version" "$folder/kernels/$version/build"
		# The header packages name each other by absolute path.
		sed -i "s|/usr/src/|$folder/headers/usr/src/|" "$folder/headers/usr/src/linux-headers-$version/Makefile"
	done
	# The release's own kernel is the one that its metapackage names.
	$sudo chroot "$root" dpkg-query -W -f '${Depends}' linux-image-amd64 |
		sed -E 's/^linux-image-([^ ,]*).*/\1/' >"$folder/default-kernel"
	$sudo rm -rf "$root/headers" "$root/boot" && $sudo mkdir "$root/boot"
}

unpack() { # whatever initramfs-tools packed with
	local head
	head=$(mktemp) && cat >"$head"
	case $(od -An -N4 -tx1 "$head" | tr -d ' ') in
	1f8b*) zcat "$head" ;;
	28b52ffd) zstd -dcq "$head" ;;
	*) cat "$head" ;;
	esac
	rm -f "$head"
}

make_guest() {
	local folder work
	folder=$(guest_folder)
	mkdir -p "$cache"
	exec 9>"$cache/lock"
	flock 9 # two checkouts, one cache
	if [ -e "$folder/root.img" ]; then
		say "guest: $folder"
		return
	fi
	say "guest: making Debian $release with the kernels $(kernels | paste -sd' ') (some minutes, once)"
	work=$(mktemp -d "${TMPDIR:-/tmp}/rig-root.XXXXXX")
	# shellcheck disable=SC2064 # the folder's name is needed now
	trap "$sudo rm -rf --one-file-system '$work' '$folder.part'" EXIT
	$sudo rm -rf "$folder" "$folder.part"
	mkdir -p "$folder.part"

	guest_sources >"$work/sources.list"
	[ -s "$work/sources.list" ] || { $sudo apt-get update -q; guest_sources >"$work/sources.list"; }
	[ -s "$work/sources.list" ] || die "no apt source for Debian $release on this machine"
	make_root "$work/root" "$work/sources.list"
	mkdir "$folder"
	take_kernels "$work/root" "$folder"
	say "guest: writing the root file system"
	truncate -s 2G "$folder.part/root.img"
	$sudo mkfs.ext4 -q -L rig-root -d "$work/root" -E lazy_itable_init=0 "$folder.part/root.img"
	$sudo chown -R "$(id -u):$(id -g)" "$folder.part" "$folder"
	mv "$folder.part/root.img" "$folder/root.img"
	say "guest: $folder, $(du -sh "$folder" | cut -f1)"
}

case ${1:-} in
where) guest_folder ;;
'')
	case $release in
	bookworm | trixie) ;;
	*) die "this needs Debian 12 or 13, this machine is ${release}" ;;
	esac
	install_packages
	make_guest
	;;
*) die "usage: setup.sh [where]" ;;
esac
