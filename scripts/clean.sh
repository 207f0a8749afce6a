#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# clean.sh BUILD [KEEP]: empty BUILD but for KEEP, after shutting down a testbed
# that still runs: its state is in there.
set -euo pipefail

build=$1
keep=${2:-}

[ -d "$build" ] || exit 0
for state in "$build"/state/*.json; do
	[ -e "$state" ] || continue
	"$build/venv/bin/megabench" down --testbed "$(basename "$state" .json)"
done
find "$build" -mindepth 1 -maxdepth 1 ! -name "${keep:-.}" -exec rm -rf {} +
[ -n "$keep" ] || rmdir "$build" 2>/dev/null || true
