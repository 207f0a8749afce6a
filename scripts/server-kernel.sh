#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# server-kernel.sh FOLDER JOBS [LSMOD]: packages of the MegaPipe kernel in
# FOLDER, from a server's configuration, FOLDER/config.server; with LSMOD, what
# its lsmod said, only with the modules that it uses.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
root=$(dirname "$here")

[ $# -ge 2 ] || die "usage: server-kernel.sh FOLDER JOBS [LSMOD]"
folder=$(cd "$1" && pwd) jobs=$2 modules=${3:-}
build=${MEGABENCH_BUILD:-$root/build}
tarball=$build/cache/linux-source.tar.xz

"$here/packages.sh" ensure build kernel deb
"$here/kernel-source.sh" "$build/cache" >/dev/null
make --no-print-directory -C "$root/kernel-patch" tree BUILD="$build" LINUX_TARBALL="$tarball"

config=$folder/config.server
if [ -n "$modules" ]; then
	reduced=$folder/reduced
	mkdir -p "$reduced"
	cp "$config" "$reduced/.config"
	# Options that are new to this version get their default.
	make -s -C "$build/linux" O="$reduced" olddefconfig
	(yes "" || true) | make -s -C "$build/linux" O="$reduced" LSMOD="$modules" localmodconfig
	config=$folder/config.reduced
	cp "$reduced/.config" "$config"
	rm -rf "$reduced"
fi

rm -f "$folder"/linux-*.deb
make --no-print-directory -C "$root/kernel-patch" deb BUILD="$build" LINUX_TARBALL="$tarball" \
	DEB="$folder" CONFIG_FILE="$config" JOBS="$jobs"
