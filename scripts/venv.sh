#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# venv.sh VENV HARNESS: make the locked Python environment, once. The stamp
# comes last, so a broken run starts over.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"

venv=$1
harness=$2
python=$("$here/python.sh")

key=$({
	"$python" -c 'import sys; print(sys.version, sys.base_prefix)'
	printf '%s\n' "$venv" "$harness"
	cat "$harness/requirements.lock" "$harness/pyproject.toml"
} | sha256sum)
if [ "$(cat "$venv/.stamp" 2>/dev/null)" = "$key" ] && "$venv/bin/python" -c '' 2>/dev/null; then
	exit 0
fi

say "venv: making $venv with $python"
rm -f "$venv/.stamp"
"$python" -m venv --clear "$venv" ||
	die "the Python environment could not be made" "Debian: make deps installs python3-venv"
pip() {
	"$venv/bin/python" -m pip --disable-pip-version-check --no-input -qq "$@" ||
		die "pip could not install the Python packages of harness/requirements.lock" \
			"is there a network? behind a proxy set https_proxy, for another index PIP_INDEX_URL"
}
pip install --require-hashes -r "$harness/requirements.lock"
pip install --no-deps --no-build-isolation -e "$harness"
printf '%s\n' "$key" >"$venv/.stamp"
