#!/usr/bin/env bash
# Gives decoders of kvfs to libFuzzer.
set -euo pipefail

usage() {
    cat <<TEXT
usage: fuzz/run.sh [--seconds N] [DECODER...]

Runs each decoder under cargo-fuzz for N seconds (60), beginning with valid input that our own code makes; without a name all
of them in a row. Stops at the first that panics, runs out of memory or does not end, and names the file with its input.

Needs a nightly compiler (rustup toolchain install nightly), a C++ compiler and cargo-fuzz (cargo install cargo-fuzz).
Corpora are kept in fuzz/corpus/DECODER, so that the next run goes on from there; inputs that failed in fuzz/artifacts.
TEXT
}

seconds=60
names=()
while [ $# -gt 0 ]; do
    case "$1" in
    --seconds)
        seconds=${2:?--seconds takes a number}
        shift
        ;;
    -h | --help)
        usage
        exit 0
        ;;
    -*)
        usage >&2
        exit 2
        ;;
    *) names+=("$1") ;;
    esac
    shift
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."
KVFS_FUZZ_CORPUS=$PWD/fuzz/corpus cargo test --test fuzz decoders
if [ ${#names[@]} -eq 0 ]; then
    for folder in fuzz/corpus/*/; do names+=("$(basename "$folder")"); done
fi
for name in "${names[@]}"; do
    if [ ! -d "fuzz/corpus/$name" ]; then
        echo "fuzz/run.sh: $name is no decoder; there are $(ls fuzz/corpus | tr '\n' ' ')" >&2
        exit 2
    fi
    echo "== $name"
    KVFS_DECODER=$name cargo +nightly fuzz run decoder "fuzz/corpus/$name" -- \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=16384 -print_final_stats=1
done
