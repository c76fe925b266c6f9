#!/usr/bin/env bash
# Makes the root file system, kernels and kernel headers of the guests.
#
#   make-guest.sh          make them, if they are not there
#   make-guest.sh where    print the folder they are in: root.img, kernels/<version>/{kernel,initrd,build}
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
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }
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
		cat make-guest.sh customize guest-packages
		find guest -type f -print0 | sort -z | xargs -0 tail -n +1
	} | sha256sum)
	echo "$cache/guest-$release-${inputs:0:16}"
}

# The release's suites as this machine's own apt knows them.
guest_sources() {
	local keyring=/usr/share/keyrings/debian-archive-keyring.gpg suite
	for suite in "$release" "$release-updates" "$release-security"; do
		apt-get indextargets --format "deb [signed-by=$keyring] \$(REPO_URI) \$(RELEASE) \$(COMPONENT)" \
			'Created-By: Packages' "Release: $suite" 'Component: main' 'Architecture: amd64'
	done | sort -u
}

# Parts of the kernel packages that no guest here uses: most of their size. depmod reads what is left, in
# each guest that our module is installed into.
unused_modules=(
	sound arch/x86/kvm
	drivers/{accessibility,atm,bluetooth,comedi,crypto,dma,edac,firewire,gpu,hid,hv,hwmon,i2c,iio,infiniband,input}
	drivers/{isdn,leds,media,message,mfd,misc,mmc,mtd,net,nvdimm,pcmcia,platform,power,powercap,scsi/\*,soundwire}
	drivers/{staging,target,thermal,thunderbolt,ufs,usb,vfio,vhost,video,w1,watchdog,xen}
	fs/{9p,affs,afs,befs,bfs,ceph,coda,dlm,ecryptfs,erofs,f2fs,gfs2,hfs,hfsplus,hpfs,jffs2,jfs,nilfs2,ntfs,ntfs3}
	fs/{ocfs2,orangefs,reiserfs,smb,ubifs,udf,ufs}
	net/{9p,atm,batman-adv,bluetooth,bridge,can,ceph,ipv4,ipv6,l2tp,mac80211,netfilter,nfc,openvswitch,rds,rxrpc}
	net/{sched,sctp,smc,tipc,wireless}
)

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
		unpack_kernel "$root/boot/vmlinuz-$version" >"$out/kernel"
		$sudo cat "$root/boot/initrd.img-$version" | unpack_initrd >"$out/initrd"
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

# Unpacked by the guest itself, under emulation, these take seconds of each boot. QEMU starts an unpacked kernel
# by its PVH entry.
unpack_initrd() {
	local packed
	packed=$(mktemp) && cat >"$packed"
	case $(od -An -N4 -tx1 "$packed" | tr -d ' ') in
	1f8b*) zcat "$packed" ;;
	28b52ffd) zstd -dcq "$packed" ;;
	*) cat "$packed" ;;
	esac
	rm -f "$packed"
}

unpack_kernel() { # <vmlinuz>
	local offset
	# What follows the packed kernel in its file is not packed: both programs complain, rightly.
	if offset=$(first "$1" '\xfd7zXZ\x00'); then
		tail -c "+$offset" "$1" | xz -dc 2>/dev/null
	elif offset=$(first "$1" '\x28\xb5\x2f\xfd'); then
		tail -c "+$offset" "$1" | zstd -dcq 2>/dev/null
	else
		cat "$1"
	fi || true
}

first() { # <file> <bytes>: where they are first, counted from 1
	local offset
	offset=$(LC_ALL=C grep -aboPm1 "$2" "$1" | head -n 1 | cut -d: -f1)
	[ -n "$offset" ] && echo $((offset + 1))
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
	# A power cut may catch ext4 while it changes a superblock that is being written: with a checksum that file
	# system would not be mounted again. The guest's root is not what is tested.
	$sudo mkfs.ext4 -q -L rig-root -d "$work/root" -O ^metadata_csum -E lazy_itable_init=0 "$folder.part/root.img"
	$sudo chown -R "$(id -u):$(id -g)" "$folder.part" "$folder"
	mv "$folder.part/root.img" "$folder/root.img"
	say "guest: $folder, $(du -sh "$folder" | cut -f1)"
}

case ${1:-} in
where) guest_folder ;;
'') make_guest ;;
*) die "usage: make-guest.sh [where]" ;;
esac
