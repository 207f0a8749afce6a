#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# configure.sh TREE OBJECTS FRAGMENT...: tinyconfig plus fragments. An option
# that does not come out as asked for is an error, unless this kernel has no
# such option at all (point releases differ): that is said, and goes on.
set -eu

tree=$1
objects=$2
shift 2
mkdir -p "$objects"
scratch=$objects/.configure
rm -rf "$scratch"
mkdir "$scratch"
trap 'rm -rf "$scratch"' EXIT

# A later fragment overrides an earlier one.
cat "$@" | sed -n -e 's/^# \(CONFIG_[A-Z0-9_]*\) is not set$/\1=n/' -e '/^CONFIG_/p' |
	awk -F= '{ value[$1] = $0 } END { for (name in value) print value[name] }' |
	sort >"$scratch/asked"

# Kconfig files are part of the question; the tree's own are cheap to list.
{
	cat "$scratch/asked"
	find "$tree/net" "$tree/arch/x86" "$tree/init" "$tree/lib" -name 'Kconfig*' -exec sha256sum {} +
} | sha256sum >"$scratch/key"
if [ -f "$objects/.config" ] && cmp -s "$scratch/key" "$objects/.config.key"; then
	exit 0
fi

kmake() {
	make --no-print-directory -s -C "$tree" O="$1" "$2" >"$scratch/log" 2>&1 || {
		cat "$scratch/log" >&2
		exit 1
	}
}

# In a directory beside it, so that an unchanged .config keeps its date.
mkdir "$scratch/o"
kmake "$scratch/o" tinyconfig
sed 's/^\(CONFIG_[A-Z0-9_]*\)=n$/# \1 is not set/' "$scratch/asked" >>"$scratch/o/.config"
kmake "$scratch/o" olddefconfig

wrong=0
while IFS='=' read -r name value; do
	have=$(sed -n "s/^$name=//p" "$scratch/o/.config")
	[ "${have:-n}" = "$value" ] && continue
	if grep -rqE --include='Kconfig*' "^(menu)?config ${name#CONFIG_}\$" "$tree"; then
		echo "error: $name: asked for $value, got ${have:-n}" >&2
		wrong=1
	else
		echo "note: this kernel has no $name" >&2
	fi
done <"$scratch/asked"
[ $wrong = 0 ] || exit 1

cmp -s "$scratch/o/.config" "$objects/.config" || cp "$scratch/o/.config" "$objects/.config"
mv "$scratch/key" "$objects/.config.key"
