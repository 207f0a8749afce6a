#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# plan.sh BUILD TESTBED SCALE ACCEL EXPERIMENT...: refuse what cannot be meant
# before anything is built, then say what make reproduce is going to do and
# about how long it takes. The minutes were measured on 2 cores, those of the
# measuring are the mean of what `megabench run --dry-run` says of all there are
# (test_bootstrap.py holds them to it).
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
root=$(dirname "$here")

[ $# -ge 5 ] || die "usage: plan.sh BUILD TESTBED SCALE ACCEL EXPERIMENT..."
build=$1 testbed=$2 scale=$3 accel=$4
shift 4

names_in() {
	local file
	for file in "$1"/*.toml; do
		[ -e "$file" ] && basename "$file" .toml
	done | paste -sd ' '
}

for experiment in "$@"; do
	[ -e "$root/harness/experiments/$experiment.toml" ] || die "unknown experiment: $experiment" \
		"there are: $(names_in "$root/harness/experiments")"
done
[ -e "$root/harness/testbeds/$testbed.toml" ] || die "unknown testbed: $testbed" \
	"there are: $(names_in "$root/harness/testbeds")"
case $accel in
auto | tcg | kvm) ;;
*) die "ACCEL=$accel is none of auto, tcg, kvm" ;;
esac
case $scale in
smoke) each_s=13 ;;
quick) each_s=200 ;;
full) each_s=5900 ;;
*) die "SCALE=$scale is none of smoke, quick, full" ;;
esac

cores=$(nproc)
total=0

# step MINUTES TEXT
step() {
	printf '  %4d min  %s\n' "$1" "$2"
	total=$((total + $1))
}

# Real machines ("ssh"): their kernel is built from the server's configuration,
# once it is known; megabench says so when it begins. "namespaces": the kernel
# is the one that runs.
kind=$(sed -n 's/^kind *= *"\([a-z]*\)".*/\1/p' "$root/harness/testbeds/$testbed.toml")
case $kind in
ssh) groups=(python build kernel source deb) ;;
namespaces) groups=(python build memcached nginx) ;;
*) groups=(python build kernel source guest) ;;
esac

printf 'make reproduce: testbed %s, scale %s, on %d cores\n' "$testbed" "$scale" "$cores"
missing=$("$here/packages.sh" missing "${groups[@]}" | cut -f1 | sort -u | paste -sd ' ')
if [ -n "$missing" ]; then
	step 3 "install Debian packages: $missing"
	printf '            (no service is started; %s)\n' \
		"$([ "$(id -u)" = 0 ] && echo "as root, which you are" || echo "by sudo, which may ask for your password")"
fi
[ -e "$build/venv/.stamp" ] || step 2 "install Python packages into build/venv, none outside"
if [ "$kind" = namespaces ]; then
	step 2 "build library, servers, load generator"
elif [ "$kind" = ssh ]; then
	step 2 "build library, servers, load generator"
	step $((80 / (cores < 16 ? cores : 16))) "build the server's kernel, unless it is there"
elif [ -e "$build/kernel-vm/arch/x86/boot/bzImage" ]; then
	step 1 "build what has changed"
else
	step $((1 + 12 / (cores < 12 ? cores : 12))) "unpack, patch and build the kernel, about 3 GB in build/"
	step 1 "build library, servers, load generator, instruction counter"
fi
step $(((each_s * $# + 59) / 60)) "run at scale $scale: $*"
step 1 "draw tables, figures and the report"
printf '  %4d min  in all, about\n' "$total"
