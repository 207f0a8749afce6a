# shellcheck shell=bash
# SPDX-License-Identifier: MIT
#
# What the scripts share: how to fail, so that every error comes with its cure.

say() {
	printf '%s\n' "$*" >&2
}

# die MESSAGE [HINT...]: one line says what is wrong, the others what to do.
die() {
	say "error: $1"
	shift
	local line
	for line in "$@"; do
		say "hint: $line"
	done
	exit 1
}
