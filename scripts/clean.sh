#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# clean.sh BUILD [KEEP]: empty BUILD but for KEEP, after shutting down a testbed
# that still runs: its state is in there.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"

build=$1
keep=${2:-}

[ -d "$build" ] || exit 0
for state in "$build"/state/*.json; do
	[ -e "$state" ] || continue
	name=$(basename "$state" .json)
	"$build/venv/bin/megabench" down --testbed "$name" ||
		die "testbed $name may still be running" \
			"stop it (megabench down --testbed its.toml), or delete $state if you know that it is not"
done
# With a slash, since build/ may be a link to a bigger disk.
find "$build/" -mindepth 1 -maxdepth 1 ! -name "${keep:-.}" -exec rm -rf {} +
[ -n "$keep" ] || rmdir "$build" 2>/dev/null || true
