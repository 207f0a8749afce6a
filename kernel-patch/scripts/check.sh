#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# check.sh SOURCE TREE OBJECTS: checkpatch over hooks and new files, sparse over
# the new ones. Both look only at what is ours; anything they say is a failure.
set -eu

source=$(cd "$1" && pwd)
tree=$2
objects=$3
failed=0

# Our own repository has neither a maintainers' file for the new ones nor a
# sign-off: both are added by whoever sends the series.
ignore=FILE_PATH_CHANGES,MISSING_SIGN_OFF,NO_AUTHOR_SIGN_OFF,SPDX_LICENSE_TAG,LINUX_VERSION_CODE
checkpatch() {
	perl "$tree/scripts/checkpatch.pl" --root="$tree" --quiet --no-summary --terse \
		--strict --show-types --max-line-length=100 --ignore="$ignore" "$@" || failed=1
}

for hook in "$source"/hooks/*.patch; do
	[ ! -e "$hook" ] || checkpatch "$hook"
done
cd "$tree"
for file in $(cd "$source" && find net include/net include/uapi -name '*.[ch]' 2>/dev/null | sort); do
	checkpatch --file "$file"
done
# Tracepoints are laid out as everywhere; tests have macros that read like the
# harness's own, and long lines to search for.
ignore=$ignore,OPEN_ENDED_LINE,PARENTHESIS_ALIGNMENT,MACRO_ARG_REUSE,LONG_LINE_STRING
for file in $(cd "$source" && find include/trace tools -name '*.[ch]' | sort); do
	checkpatch --file "$file"
done

# Objects are all there: C=2 checks sources whether or not they need compiling.
if [ -d "$tree/net/megapipe" ] && [ -f "$objects/.config" ]; then
	said=$(make --no-print-directory -s -C "$tree" O="$objects" LOCALVERSION= C=2 net/megapipe/ 2>&1) || {
		echo "$said"
		failed=1
	}
	ours=$(echo "$said" | grep -E 'megapipe.*(warning|error):' || true)
	[ -z "$ours" ] || {
		echo "$ours"
		failed=1
	}
fi
[ $failed = 0 ] && echo "check: hooks and new files are clean"
exit $failed
