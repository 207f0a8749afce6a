#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# older.sh FOLDER: the oldest source of this kernel series that the package
# archive still has, as FOLDER/linux-VERSION.tar.xz, without installing it.
set -eu

folder=$1
package=linux-source-6.12
oldest=$(apt-cache madison $package | awk '{ print $3 }' | sort -V | head -n 1)
[ -n "$oldest" ] || {
	echo "error: the package archive has no $package" >&2
	echo "hint: put kernels into $folder, or give SERIES_SOURCES=…" >&2
	exit 1
}
tarball=$folder/linux-${oldest%%-*}.tar.xz
if [ ! -e "$tarball" ]; then
	mkdir -p "$folder"
	scratch=$(mktemp -d)
	trap 'rm -rf "$scratch"' EXIT
	(cd "$scratch" && apt-get download -qq "$package=$oldest")
	dpkg-deb --fsys-tarfile "$scratch"/*.deb | tar -xO "./usr/src/$package.tar.xz" >"$tarball.part"
	mv "$tarball.part" "$tarball"
fi
echo "$tarball"
