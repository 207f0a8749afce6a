#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# lint.sh BUILD: all linters over all that git knows; every one runs, and the
# first that complains decides the exit status.
# shellcheck disable=SC2317 # lint calls the functions
set -uo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
build=$1
cd "$root" || exit 1
status=0

# lint NAME COMMAND...
lint() {
	local name=$1 output
	shift
	if output=$("$@" 2>&1); then
		printf 'ok    %s\n' "$name"
	else
		printf 'FAIL  %s\n%s\n' "$name" "$output"
		status=1
	fi
}

mapfile -t shell < <(git ls-files -co --exclude-standard '*.sh' .ci/run)
mapfile -t python < <(git ls-files -co --exclude-standard '*.py')
mapfile -t elsewhere < <(printf '%s\n' "${python[@]}" | grep -v '^harness/')
mapfile -t c < <(git ls-files -co --exclude-standard '*.c' '*.h' | sed "s|^|$root/|")

lint shellcheck shellcheck -x -P SCRIPTDIR "${shell[@]}"
# Each from the folder of its configuration: what is first-party depends on it.
lint ruff env -C harness "$build/venv/bin/ruff" check .
lint 'ruff format' env -C harness "$build/venv/bin/ruff" format --check .
lint 'ruff elsewhere' "$build/venv/bin/ruff" check --config harness/pyproject.toml "${elsewhere[@]}"
lint 'ruff format elsewhere' \
	"$build/venv/bin/ruff" format --check --config harness/pyproject.toml "${elsewhere[@]}"
lint mypy env -C harness "$build/venv/bin/mypy"
lint 'mypy scripts' "$build/venv/bin/mypy" --config-file harness/pyproject.toml scripts/fetch.py \
	scripts/app_source.py

# The kernel's rules; user space lacks the kernel's macros, hence the exceptions.
# It writes a file where it stands, so it stands in build/.
checkpatch=(env -C "$build" perl "$build/linux/scripts/checkpatch.pl" --no-tree --terse
	--no-summary --quiet --show-types --max-line-length=100)
mapfile -t kernel < <(printf '%s\n' "${c[@]}" | grep '/kernel-patch/' | grep -v '/selftests/')
mapfile -t selftests < <(printf '%s\n' "${c[@]}" | grep '/kernel-patch/.*/selftests/')
# Ports keep their own project's style.
mapfile -t user < <(printf '%s\n' "${c[@]}" | grep -v -e '/kernel-patch/' -e '/apps/memcached/src/' -e '/apps/nginx/src/')
lint 'checkpatch kernel' "${checkpatch[@]}" --ignore FILE_PATH_CHANGES --file "${kernel[@]}"
# The macros of kselftest_harness.h look like other things than they are.
lint 'checkpatch selftests' "${checkpatch[@]}" --file "${selftests[@]}" --ignore "$(paste -sd , <<-END
	ARRAY_SIZE
	BRACES
	FILE_PATH_CHANGES
	PREFER_DEFINED_ATTRIBUTE_MACRO
	QUOTED_WHITESPACE_BEFORE_NEWLINE
	SPACING
	SPLIT_STRING
END
)"
lint 'checkpatch user' "${checkpatch[@]}" --file "${user[@]}" --ignore "$(paste -sd , <<-END
	ARRAY_SIZE
	CAMELCASE
	EMBEDDED_FUNCTION_NAME
	MACRO_WITH_FLOW_CONTROL
	NEW_TYPEDEFS
	PREFER_DEFINED_ATTRIBUTE_MACRO
	PREFER_KERNEL_TYPES
	SPLIT_STRING
	VOLATILE
END
)"

every_file_names_its_licence() {
	local file bare=()
	for file in "${shell[@]}" "${python[@]}" "${c[@]}" Makefile; do
		head -n 3 "$file" | grep -q 'SPDX-License-Identifier: ' || bare+=("$file")
	done
	[ ${#bare[@]} = 0 ] || {
		printf 'no SPDX line: %s\n' "${bare[@]}"
		return 1
	}
}
lint licences every_file_names_its_licence

# A target that two recipes claim is a warning to make and a trap to us.
makefiles_are_sound() {
	local file output
	for file in $(git ls-files -co --exclude-standard Makefile '*/Makefile'); do
		output=$(env -u MAKEFLAGS -u MAKELEVEL make -n -C "$(dirname "$file")" no-such-target 2>&1)
		! grep -e warning -e '\*\*\* missing' <<<"$output" || return 1
	done
}
lint makefiles makefiles_are_sound

exit $status
