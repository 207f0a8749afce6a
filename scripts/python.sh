#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# python.sh: print the Python to use, 3.11 or newer: PYTHON if set, else the
# first that fits.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"

fits() {
	"$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

if [ -n "${PYTHON:-}" ]; then
	fits "$PYTHON" || die "PYTHON=$PYTHON is not a Python 3.11 or newer"
	command -v "$PYTHON"
	exit
fi

for name in python3 /usr/bin/python3 python3.11 python3.12 python3.13 python3.14; do
	if fits "$name"; then
		command -v "$name"
		exit
	fi
done

old=$(python3 -c 'import platform; print(platform.python_version())' 2>/dev/null) ||
	die "there is no Python" "make deps installs it (Debian: python3 python3-venv)"
die "Python 3.11 or newer is needed; python3 is $old" \
	"Debian 12 and Ubuntu 24.04 have it; elsewhere install one and say make PYTHON=/path/to/python3.11"
