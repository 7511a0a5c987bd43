#!/bin/sh
# Boots guests afresh, without a template, and counts those that failed. Usage: scripts/boot-check.sh [COUNT]
# Another QEMU is taken with MVM_QEMU=/path/to/qemu-system-x86_64.
set -eu
count=${1:-100}
mvmctl=${MVMCTL:-target/release/mvmctl}
failed=0
i=0
"$mvmctl" setup --image base >/dev/null
while [ "$i" -lt "$count" ]; do
    i=$((i + 1))
    out=$("$mvmctl" run --quiet --no-template --image base -- echo up 2>&1) || true
    if [ "$out" != up ]; then
        failed=$((failed + 1))
        printf 'boot %d failed: %s\n' "$i" "$out"
    fi
done
printf '%d boots, %d failed\n' "$count" "$failed"
[ "$failed" -eq 0 ]
