#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# test-kernel.sh BUILD JOBS [STAGE...]: all proof of the kernel side, hours of
# it. A stage that is done is not done again until its inputs change; each can
# be run alone. Logs and a summary are in BUILD/test-kernel. Stages:
#
#   ordinary   the selftests at full scale on the ordinary kernel
#   debug      the same, and fault injection, on the debug kernel
#   kcsan      the selftests on a kernel that looks for data races
#   coverage   the selftests on a kernel that counts lines; at least 90 %
#   fuzz       10 million commands on the debug kernel, in rounds
#   kill       owners killed as fast as they restart, on both kernels
#   guards     each guard of kernel-patch/guards.toml taken out: its test fails
#   check      checkpatch, sparse, the series, every configuration and hook
#   peers      the kernel's own selftests, and what programs without MegaPipe
#              pay in instructions: patched against untouched
# shellcheck disable=SC2317 # stages are called by their names
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
root=$(dirname "$here")
cd "$root"

[ $# -ge 2 ] || die "usage: test-kernel.sh BUILD JOBS [STAGE...]"
build=$1 jobs=$2
shift 2
stages=("$@")
[ $# -gt 0 ] || stages=(ordinary debug kcsan coverage fuzz kill guards check peers)

logs=$build/test-kernel
mkdir -p "$logs"
rounds=${FUZZ_ROUNDS:-4}
# Of the fuzzer's 250,000 commands: 4 rounds of 2.5 million each
fuzz_scale=${FUZZ_SCALE:-10}

kernel() {
	make --no-print-directory kernel CONFIG="$1" JOBS="$jobs"
}

# selftests KERNEL SCALE TIMEOUT_S [PYTEST_ARGUMENT...]
selftests() {
	local kernel=$1 scale=$2 timeout=$3
	shift 3
	MEGAPIPE_KERNELS=$kernel MEGAPIPE_TEST_SCALE=$scale MEGAPIPE_TEST_TIMEOUT=$timeout \
		"$build/venv/bin/python" -m pytest -c harness/pyproject.toml -rs "$@" \
		harness/tests/test_kernel_selftests.py
}

stage_ordinary() {
	kernel vm
	# 50,000 idle connections are 12.5 times what the quick run has.
	selftests vm 12.5 3600
}

stage_debug() {
	kernel debug
	selftests debug 1 7200
}

stage_kcsan() {
	kernel kcsan
	selftests kcsan 0.5 7200
}

stage_coverage() {
	kernel coverage
	selftests coverage 0.5 7200
	cat "$logs/coverage/coverage.txt"
}

stage_fuzz() {
	local round
	kernel debug
	# A round boots anew: what it leaves behind is seen by itself.
	for round in $(seq "$rounds"); do
		printf 'round %d of %d\n' "$round" "$rounds"
		selftests debug "$fuzz_scale" 7200 -k 'fuzz or leaked'
		mv "$logs/debug/fuzz.tap" "$logs/fuzz-$round.tap"
		grep '^#' "$logs/fuzz-$round.tap"
	done
}

stage_kill() {
	kernel vm
	kernel debug
	selftests vm 25 7200 -k 'kill or leaked'
	selftests debug 2.5 7200 -k 'kill or leaked'
}

stage_guards() {
	rm -f "$logs/guards.md"
	TEST_GUARDS=1 "$build/venv/bin/python" -m pytest -c harness/pyproject.toml \
		harness/tests/test_kernel_guards.py
}

stage_check() {
	# The series is for the oldest kernel that there is to be had, too.
	make --no-print-directory -C kernel-patch older
	make --no-print-directory -C kernel-patch check WHAT=all JOBS="$jobs" \
		LINUX_TARBALL="$build/cache/linux-source.tar.xz"
}

stage_peers() {
	scripts/packages.sh ensure peers
	make --no-print-directory -C kernel-patch peers peers-cost JOBS="$jobs" \
		LINUX_TARBALL="$build/cache/linux-source.tar.xz"
}

# What decides a stage's outcome: the kernel's side, its tests, this script.
inputs() {
	git ls-files -co --exclude-standard 'kernel-patch/*' ':!kernel-patch/*.md' \
		harness/tests/test_kernel_selftests.py harness/tests/test_kernel_guards.py \
		harness/tests/kernel_log.py scripts/test-kernel.sh |
		sort | xargs sha256sum | sha256sum
}

# A process of its own for each: "set -e" does nothing inside a condition.
if [ "${stages[0]}" = --only ]; then
	"stage_${stages[1]}"
	exit
fi

key=$(inputs)
failed=0
for stage in "${stages[@]}"; do
	declare -F "stage_$stage" >/dev/null || die "no stage '$stage'" \
		"there are: ordinary debug kcsan coverage fuzz kill guards check peers"
	if [ "$(cat "$logs/$stage.done" 2>/dev/null)" = "$key" ]; then
		continue
	fi
	say "test-kernel: $stage (log: $logs/$stage.log)"
	begun=$SECONDS
	# A failed stage does not keep the others from running.
	if bash -euo pipefail "$0" "$build" "$jobs" --only "$stage" >"$logs/$stage.log" 2>&1; then
		printf '%s\n' "$key" >"$logs/$stage.done"
		printf 'passed in %d min\n' $(((SECONDS - begun + 59) / 60)) >"$logs/$stage.result"
	else
		rm -f "$logs/$stage.done"
		printf 'FAILED after %d min: %s\n' $(((SECONDS - begun + 59) / 60)) \
			"$(grep -E '^(E  |FAILED|error)' "$logs/$stage.log" | tail -n 1)" >"$logs/$stage.result"
		failed=1
	fi
done

printf '\n%-10s %s\n' stage result
for stage in "${stages[@]}"; do
	printf '%-10s %s\n' "$stage" "$(cat "$logs/$stage.result" 2>/dev/null || echo 'not run')"
done | tee "$logs/summary.txt"
exit $failed
