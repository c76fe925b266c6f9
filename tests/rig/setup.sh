#!/usr/bin/env bash
# Makes this machine able to build remap-guardian and to run it in guests: installs what host-packages lists, then
# makes the guest. What is there already is left alone.
set -euo pipefail

rig=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
sudo=$([ "$(id -u)" = 0 ] || echo sudo)
# shellcheck source=/dev/null
release=$(. /etc/os-release && echo "${VERSION_CODENAME:-unknown}")

say() { printf '==> %s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }
listed() { sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$1"; }

# What building and testing need here, with the release's own kernel source for User Mode Linux.
wanted() {
	listed "$rig/host-packages"
	listed "$rig/../kmod/packages.txt"
	[ "$release" = bookworm ] && echo linux-source-6.1 || echo linux-source-6.12
}

missing_packages() {
	local installed
	installed=$(dpkg-query -W -f '${db:Status-Status} ${binary:Package}\n' | sed -n 's/^installed \([^:]*\).*/\1/p')
	wanted | sort -u | grep -vxF -f <(echo "$installed") || true
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

case $release in
bookworm | trixie) ;;
*) die "this needs Debian 12 or 13; this machine is ${release}" ;;
esac
install_packages
"$rig/make-guest.sh"
