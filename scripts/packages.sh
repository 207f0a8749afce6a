#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# packages.sh missing GROUP...   print what is missing: package, then why
# packages.sh ensure GROUP...    install it; with nothing missing, no root,
#                                no network and no Debian is needed
#
# PACKAGES names another list (the tests use it).
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
list=${PACKAGES:-$here/packages.txt}

has_header() {
	local dir
	for dir in /usr/include /usr/include/"$(uname -m)"-linux-gnu /usr/local/include; do
		[ -e "$dir/$1" ] && return 0
	done
	return 1
}

# The environment is made by the Python that scripts/python.sh picks.
has_module() {
	local python
	python=$("$here/python.sh" 2>/dev/null) || python=python3
	"$python" -c "import $1, venv" 2>/dev/null
}

present() {
	local what=${1#*:}
	case $1 in
	cmd:*) PATH=$PATH:/usr/sbin:/sbin command -v "$what" >/dev/null ;;
	hdr:*) has_header "$what" ;;
	lib:*) { PATH=$PATH:/usr/sbin:/sbin ldconfig -p | grep -F "$what "; } >/dev/null ;;
	py:*) has_module "$what" ;;
	file:*) [ -e "$what" ] ;;
	*) die "$list: unknown probe '$1'" ;;
	esac
}

missing() {
	local group package probe why wanted
	while read -r group package probe why; do
		case $group in '' | '#'*) continue ;; esac
		for wanted in "$@"; do
			if [ "$group" = "$wanted" ] && ! present "$probe"; then
				printf '%s\t%s\n' "$package" "$why"
			fi
		done
	done <"$list"
}

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	else
		sudo "$@"
	fi
}

known() {
	local candidate
	candidate=$(LC_ALL=C apt-cache policy "$1" 2>/dev/null | awk '/Candidate:/ { print $2 }')
	[ -n "$candidate" ] && [ "$candidate" != "(none)" ]
}

apt_install() {
	# needrestart would restart services of the user's machine.
	as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
		apt-get -q -y -o DPkg::Lock::Timeout=120 install --no-install-recommends "$@" >&2
}

apt_update() {
	say "packages: refreshing the package lists (apt-get update)"
	as_root apt-get -q -o DPkg::Lock::Timeout=120 update >&2 ||
		say "packages: apt-get update failed; going on with the lists there are"
}

ensure() {
	local found names name updated=no unknown=()
	found=$(missing "$@")
	[ -n "$found" ] || return 0
	mapfile -t names < <(cut -f1 <<<"$found" | sort -u)

	command -v apt-get >/dev/null || die "this is neither Debian nor Ubuntu, and something is missing: ${names[*]}" \
		"install what these packages hold with your own package manager, then run make again:" \
		"$(tr '\t' ' ' <<<"$found" | paste -sd ';')"
	[ "$(id -u)" = 0 ] || command -v sudo >/dev/null ||
		die "packages are missing, and installing them needs root" \
			"as root: apt-get install --no-install-recommends ${names[*]}"

	say "packages: installing"
	sed 's/^/  /; s/\t/ - /' <<<"$found" >&2
	for name in "${names[@]}"; do
		known "$name" && continue
		[ $updated = yes ] || { apt_update && updated=yes; }
		known "$name" || unknown+=("$name")
	done
	[ ${#unknown[@]} = 0 ] || die "no package source offers: ${unknown[*]}" \
		"is there a network? see /etc/apt/sources.list and /etc/apt/sources.list.d; Debian 12 has all of them"

	if ! apt_install "${names[@]}"; then
		# Lists from last month name versions that the mirror has dropped.
		[ $updated = no ] && apt_update && apt_install "${names[@]}"
	fi || die "apt-get could not install: ${names[*]}" \
		"is there a network, and space on /? or by hand: apt-get install --no-install-recommends ${names[*]}"

	found=$(missing "$@")
	[ -z "$found" ] || die "still not there after installing: $(cut -f1 <<<"$found" | paste -sd ' ')" \
		"is another version of it first in PATH? PATH=$PATH"
}

[ $# -ge 2 ] || die "usage: packages.sh missing|ensure GROUP..."
case $1 in
missing | ensure) "$@" ;;
*) die "packages.sh: no such verb: $1" ;;
esac
