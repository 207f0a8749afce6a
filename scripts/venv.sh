#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# venv.sh VENV HARNESS: make the locked Python environment, and megabench in
# it, each only when what it is made from changes. A stamp comes last, so a
# broken run starts over.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"

venv=$1
harness=$2
python=$("$here/python.sh")

pip() {
	"$venv/bin/python" -m pip --disable-pip-version-check --no-input -qq "$@" ||
		die "pip could not install the Python packages of harness/requirements.lock" \
			"is there a network? behind a proxy set https_proxy, for another index PIP_INDEX_URL"
}

# current STAMP KEY
current() {
	[ "$(cat "$venv/$1" 2>/dev/null)" = "$2" ]
}

locked=$({
	"$python" -c 'import sys; print(sys.version, sys.base_prefix)'
	printf '%s\n' "$venv"
	cat "$harness/requirements.lock"
} | sha256sum)
if ! current .stamp-locked "$locked" || ! "$venv/bin/python" -c '' 2>/dev/null; then
	say "venv: making $venv with $python"
	"$python" -m venv --clear "$venv" ||
		die "the Python environment could not be made" "Debian: make deps installs python3-venv"
	pip install --require-hashes -r "$harness/requirements.lock"
	printf '%s\n' "$locked" >"$venv/.stamp-locked"
fi

megabench=$({
	printf '%s\n' "$locked" "$harness"
	cat "$harness/pyproject.toml"
} | sha256sum)
if ! current .stamp "$megabench"; then
	pip install --no-deps --no-build-isolation -e "$harness"
	printf '%s\n' "$megabench" >"$venv/.stamp"
fi
