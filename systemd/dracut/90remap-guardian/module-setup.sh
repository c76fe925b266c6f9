#!/bin/bash
# dracut: what opening sets needs, so that the root file system can be on one, and so that a raw main device is shielded
# before anything is mounted. A machine that knows no set gets nothing.

mains=/etc/remap-guardian/mains.toml

check() {
	require_binaries /usr/sbin/remap-guardian dmsetup partx || return 1
	grep -qs '^\[\[main\]\]' "${dracutsysrootdir-}$mains" || return 255
}

depends() {
	echo dm
}

installkernel() {
	# shellcheck disable=SC2154 # dracut sets it
	if ! modinfo -k "$kernel" dm_remap_v4_real >/dev/null 2>&1; then
		dfatal "remap-guardian: there is no kernel module dm_remap_v4_real for kernel $kernel, but $mains lists sets:"
		dfatal "with this initramfs they would not open, and a root file system on one would not be found."
		dfatal "Next: install the headers of this kernel, then run “make build && sudo make install KVER=$kernel” in the"
		dfatal "source tree of remap-guardian; or, to go without: remap-guardian forget NAME"
		exit 1
	fi
	hostonly='' instmods dm_mod dm_remap_v4_real
}

install() {
	inst_multiple /usr/sbin/remap-guardian dmsetup partx modprobe
	inst_rules 55-dm.rules 60-persistent-storage-dm.rules 56-remap-guardian.rules 61-remap-guardian-members.rules
	# The rules name these paths.
	inst_simple "$(command -v dmsetup)" /sbin/dmsetup
	local file
	for file in /usr/lib/remap-guardian /etc/remap-guardian; do
		[ -d "${dracutsysrootdir-}$file" ] || continue
		while read -r -d '' path; do
			inst_simple "$path"
		done < <(find "${dracutsysrootdir-}$file" -type f -print0)
	done
	# shellcheck disable=SC2154 # dracut sets it
	inst_hook initqueue/settled 50 "$moddir/assemble.sh"
	inst_hook pre-mount 90 "$moddir/serve.sh"
}
