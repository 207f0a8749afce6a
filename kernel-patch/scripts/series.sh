#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# series.sh SOURCE ORIGINALS OUTPUT: the hooks and the new files as one series
# of mails for git am, numbered in OUTPUT. New code comes first: nothing builds
# it before the last hook does, so the tree builds after each mail. It is made
# by git itself, in a scratch repository of the few files concerned.
set -eu

source=$(cd "$1" && pwd)
originals=$2
output=$3
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

author=$(git -C "$source" log -1 --format='%an <%ae>' -- . 2>/dev/null || true)
author=${author:-MegaPipe developers <megapipe@localhost>}
date=$(git -C "$source" log -1 --format=%aI -- . 2>/dev/null || true)
date=${date:-2026-01-01T00:00:00+00:00}
export GIT_COMMITTER_NAME="${author% <*}" GIT_COMMITTER_EMAIL=megapipe@localhost
export GIT_COMMITTER_DATE="$date" GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1

cd "$scratch"
git init -q .
cp -r "$originals/." .
git add -A
git commit -q --allow-empty --author="$author" --date="$date" -m base

# commit SUBJECT BODY PATH...: those of our new files that there are
commit() {
	subject=$1
	body=$2
	shift 2
	for path; do
		[ -e "$source/$path" ] || continue
		mkdir -p "$(dirname "$path")"
		cp -r "$source/$path" "$path"
	done
	git add -A
	git diff --cached --quiet ||
		git commit -q --author="$author" --date="$date" -m "$subject" -m "$body" \
			-m "Upstream: N/A part of the MegaPipe series"
}

commit "net: megapipe: add the user interface" \
	"The commands and completions of /dev/megapipe, and what the rest of the
kernel may know of it. Nothing uses it yet." include
commit "net: megapipe: add channels, handles, partitions and lwsockets" \
	"The completion-based interface for network I/O of Han et al. (OSDI 2012):
per-core channels, accept queues partitioned by CPU, sockets without a file,
and batches of commands. Nothing builds it yet." net
for hook in "$source"/hooks/*.patch; do
	[ -e "$hook" ] || continue
	git am -q --keep-non-patch --committer-date-is-author-date "$hook" >"$scratch/.git/am.log" 2>&1 || {
		cat "$scratch/.git/am.log" >&2
		echo "error: $(basename "$hook") does not apply with git am" >&2
		exit 1
	}
done
commit "Documentation: networking: describe MegaPipe" \
	"What it is for, its commands and its limits." Documentation
commit "selftests: net: add tests of MegaPipe" \
	"One program for each part of it." tools

rm -rf "$output"
git format-patch -q -N -o "$output" --zero-commit --no-signature "$(git rev-list --max-parents=0 HEAD)"
echo "$output: $(find "$output" -name '*.patch' | wc -l) mails"
