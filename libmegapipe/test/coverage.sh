#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# coverage.sh OBJECTS TEST...: run the tests, print which share of the lines of
# src/ they ran, and fail if it is below 90 % in all.
set -euo pipefail

objects=$1
shift

find "$objects" -name '*.gcda' -delete
for test in "$@"; do
	"$test" >"$objects/output" || {
		cat "$objects/output" >&2
		exit 1
	}
done

# gcov says: File 'src/x.c', then Lines executed:97.50% of 40
for source in src/*.c; do
	name=$(basename "$source" .c)
	gcov -n -s . -o "$objects/src" "$objects/src/$name.gcda" |
		awk -F "[':% ]+" -v want="$source" '
			/^File/ { file = $2 }
			/^Lines/ && file == want { print file, $5, $3; file = "" }'
done | awk '
	BEGIN { printf "%-20s %6s %8s\n", "file", "lines", "run" }
	{ printf "%-20s %6d %6.1f %%\n", $1, $2, $3; all += $2; run += $2 * $3 / 100 }
	END {
		share = all ? 100 * run / all : 0
		printf "%-20s %6d %6.1f %%\n", "all", all, share
		exit share < 90
	}'
