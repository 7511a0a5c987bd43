#!/bin/sh
# Runs every fuzz target from its seeds, each for so many seconds. Needs a nightly compiler; installs cargo-fuzz if it is
# missing. What was found lies in fuzz/artifacts, and the script fails. Usage: scripts/fuzz.sh [SECONDS] [TARGET…]
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-20}
[ $# -eq 0 ] || shift

if ! cargo +nightly --version >/dev/null 2>&1; then
    echo "Fuzzing needs a nightly compiler: rustup toolchain install nightly" >&2
    exit 1
fi
if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "Installing: cargo-fuzz"
    cargo install --quiet --locked cargo-fuzz
fi

# The log's files are made anew for every input: in memory, where that can be had.
memory=/dev/shm
[ -w "$memory" ] || memory=${TMPDIR:-/tmp}
TMPDIR=$(mktemp -d "$memory/mvm-fuzz.XXXXXX")
export TMPDIR
# No profile of whoever runs this has a say.
export XDG_CONFIG_HOME="$TMPDIR"
trap 'rm -rf "$TMPDIR"' EXIT
trap 'exit 130' INT TERM

for target in ${*:-$(cargo fuzz list)}; do
    corpus=target/fuzz/corpus/$target
    mkdir -p "$corpus"
    echo "fuzz: $target, $seconds s"
    cargo +nightly fuzz run --target-dir target/fuzz "$target" "$corpus" "fuzz/seeds/$target" -- \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=16384 -print_final_stats=1 2>"$TMPDIR/said" ||
        { tail -n 60 "$TMPDIR/said" >&2; exit 1; }
    grep -E 'stat::(number_of_executed_units|new_units_added)|^Done' "$TMPDIR/said"
done
