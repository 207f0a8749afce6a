#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# deb.sh TREE DIRECTORY CONFIG_FILE JOBS: Debian packages of the patched kernel,
# in DIRECTORY. The configuration is a distribution's own, brought up to this
# version, without its signing keys and its debugging information, plus ours
# (config/server.config).
set -eu

tree=$1
directory=$2
config=$3
jobs=$4
objects=$directory/objects
fragment=$(dirname "$0")/../config/server.config

if [ -z "$config" ] || [ ! -f "$config" ]; then
	echo "error: no kernel configuration ${config:-in /boot}" >&2
	echo "hint: make deb CONFIG_FILE=… (Debian's: package linux-config-6.12, /usr/src/linux-config-6.12/)" >&2
	exit 1
fi
for tool in dh_prep:debhelper dpkg-buildpackage:dpkg-dev rsync:rsync; do
	command -v "${tool%:*}" >/dev/null || {
		echo "error: packages need the command ${tool%:*}" >&2
		echo "hint: apt-get install ${tool#*:}" >&2
		exit 1
	}
done

mkdir -p "$objects"
case $config in
*.xz) xz -dc "$config" >"$objects/.config" ;;
*) cp "$config" "$objects/.config" ;;
esac
"$tree/scripts/config" --file "$objects/.config" \
	--set-str LOCALVERSION -megapipe --disable LOCALVERSION_AUTO \
	--set-str SYSTEM_TRUSTED_KEYS '' --set-str SYSTEM_REVOCATION_KEYS '' \
	--enable DEBUG_INFO_NONE --disable DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT \
	--disable DEBUG_INFO_DWARF4 --disable DEBUG_INFO_DWARF5 --disable DEBUG_INFO_BTF
# Of an option that is there twice the last one counts.
cat "$fragment" >>"$objects/.config"
ccache=
if command -v ccache >/dev/null; then ccache='ccache '; fi
kmake() {
	make --no-print-directory -s -C "$tree" O="$objects" LOCALVERSION= \
		CC="${ccache}gcc" HOSTCC="${ccache}gcc" "$@"
}
kmake olddefconfig
grep '^CONFIG_' "$fragment" | while read -r option; do
	grep -qxF "$option" "$objects/.config" || {
		echo "error: $option cannot be had with $config" >&2
		exit 1
	}
done
kmake -j"$jobs" bindeb-pkg
ls "$directory"/linux-*.deb
