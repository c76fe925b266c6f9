#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Fuzz the pure parsers in user space, under ASan and UBSan.
#   fuzz.sh [seconds]   of each harness, default 10
# It starts from the committed corpus (fuzz/<harness>/) and keeps what it learns,
# and what fails, under out/fuzz.
set -eu

seconds=${1:-10}
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-$here/out}/fuzz
passed=0 failed=0
make -s -C "$here" fuzzers ${KMOD:+KMOD="$KMOD"} ${OUT:+OUT="$OUT"}

for harness in args mark; do
	mkdir -p "$out/$harness-corpus"
	if "$out/$harness" -max_total_time="$seconds" -max_len=5000 -print_final_stats=1 \
		-artifact_prefix="$out/$harness-" "$out/$harness-corpus" "$here/fuzz/$harness" \
		>"$out/$harness.log" 2>&1; then
		echo "ok $harness: $(sed -n 's/^stat::number_of_executed_units: *//p' "$out/$harness.log") inputs"
		passed=$((passed + 1))
	else
		grep -E 'not so|SUMMARY|Test unit written' "$out/$harness.log" || tail -n 5 "$out/$harness.log"
		echo "FAIL $harness, see $out/$harness.log"
		failed=$((failed + 1))
	fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
