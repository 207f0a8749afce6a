#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# preflight.sh BUILD [NEED_MB]: what can be known to fail should fail now and
# not in twenty minutes: the kind of machine, the space for build/.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"

build=$1
need_mb=${2:-6000}

[ "$(uname -s)" = Linux ] || die "this needs Linux; here is $(uname -s)" \
	"a Debian 12 virtual machine with 2 cores, 4 GB of memory and 10 GB of disk will do"
[ "$(uname -m)" = x86_64 ] || die "the kernel of the testbed is built for x86-64; here is $(uname -m)" \
	"run it on an x86-64 machine"

# Kbuild and gcc's makefiles split names at spaces and colons.
case $build in
*[[:space:]:]*) die "the checkout's path has a space or a colon, which the kernel's build cannot take: $build" \
	"move the checkout to a path without" ;;
esac

mkdir -p "$build" || die "cannot make $build" "is the checkout writable by $(id -un)?"
free_mb=$(df -Pm "$build" | awk 'NR == 2 { print $4 }')
used_mb=$(du -sm "$build" | cut -f1)
# What is built already need not be found again; a rebuild needs some room.
want_mb=$((need_mb - used_mb))
[ "$want_mb" -ge 500 ] || want_mb=500
[ "$free_mb" -ge "$want_mb" ] || die "no space left: $build needs $want_mb MB more, $free_mb MB are free" \
	"free some, or make build/ a link to a bigger disk, or run: make clean"
