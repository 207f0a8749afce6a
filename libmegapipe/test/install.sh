#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# install.sh DIRECTORY MAKE CC: install below DIRECTORY, look at it as a packager
# and as a program's author would, and uninstall.
set -euo pipefail

root=$1/root
make=$2
cc=$3

fail() {
	echo "install: $*" >&2
	exit 1
}

rm -rf "$1"
mkdir -p "$1"
$make -s install DESTDIR="$root" PREFIX=/usr

for file in include/megapipe.h lib/libmegapipe.a lib/libmegapipe.so \
	lib/pkgconfig/libmegapipe.pc bin/megapipe-info share/man/man7/megapipe.7 \
	share/man/man1/megapipe-info.1; do
	[ -e "$root/usr/$file" ] || fail "no $file"
done
# A link that leads out of DESTDIR would lead nowhere in the end.
[ "$(readlink "$root/usr/lib/libmegapipe.so")" = libmegapipe.so.1 ] || fail 'link to the soname'
[ -e "$root/usr/lib/libmegapipe.so.1" ] || fail 'no soname'
! grep -n '@' "$root/usr/lib/pkgconfig/libmegapipe.pc" || fail 'not filled in'

# pkg-config's answer, without asking for pkg-config: Cflags and Libs of the file
answer() {
	sed -n "s/^$1: //p" "$root/usr/lib/pkgconfig/libmegapipe.pc" |
		sed -e "s|\${includedir}|$root/usr/include|" -e "s|\${libdir}|$root/usr/lib|"
}
read -ra flags < <(answer Cflags)
read -ra libs < <(answer Libs)
$cc "${flags[@]}" examples/pingpong.c -o "$1/pingpong" "${libs[@]}" -pthread
status=0
LD_LIBRARY_PATH=$root/usr/lib "$1/pingpong" 2>"$1/usage" || status=$?
[ $status = 2 ] || fail 'the example does not run'
grep -q usage "$1/usage" || fail 'the example does not say its usage'

$make -s uninstall DESTDIR="$root" PREFIX=/usr
left=$(find "$root" ! -type d)
[ -z "$left" ] || fail "left behind: $left"
