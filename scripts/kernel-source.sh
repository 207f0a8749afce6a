#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# kernel-source.sh CACHE: see that there is a kernel source and print its path.
# Debian's package is tried first; where it is not to be had, fetch.py goes on
# to kernel.org or ends with what to do.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"

cache=$1
python=$("$here/python.sh")

if [ -z "${LINUX_TARBALL:-}" ] && [ -z "$(find "$cache" -name 'linux-6.12.*.tar.xz' 2>/dev/null)" ]; then
	"$here/packages.sh" ensure source ||
		say "note: no Debian package of the kernel source; trying kernel.org"
fi
exec "$python" "$here/fetch.py" --versions "$(dirname "$here")/versions.toml" --cache "$cache"
