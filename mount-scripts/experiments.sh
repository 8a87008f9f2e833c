#!/usr/bin/env bash
# Four experiments with an LSM-tree, each with a look before and after: fill and flush, trace a read, pile up L0, compact.
# First without bloom filters, then with them. Behind them the five failure modes of fio-jobs/failure-modes.sh. Leaves nothing
# behind.
set -euo pipefail

usage() {
    cat <<TEXT
usage: mount-scripts/experiments.sh [KVFS]

KVFS is the program (default: kvfs in the PATH, or target/release/kvfs).

environment:
  BASE    where the store is made (/var/tmp; should be a disk, not a tmpfs)
  MODES   failure modes to show behind the experiments, as fio-jobs/failure-modes.sh names them (all five; none: leave them out)
  SIZE    megabytes of their data set (64)
TEXT
}

case "${1:-}" in
-h | --help)
    usage
    exit 0
    ;;
esac

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
kvfs=${1:-$(command -v kvfs || echo "$repository/target/release/kvfs")}
if [ ! -x "$kvfs" ]; then
    echo "$kvfs: there is no such program; cargo build --release makes it" >&2
    exit 2
fi
work=$(mktemp -d "${BASE:-/var/tmp}/kvfs-experiments.XXXXXX")
mnt=$work/mnt
mkdir "$mnt"
mounted=

cleanup() {
    [ -z "$mounted" ] || "$kvfs" umount "$mnt" || "$kvfs" umount -l "$mnt" || true
    rm -rf --one-file-system "$work"
}
trap cleanup EXIT

say() { printf '\n== %s\n' "$*"; }
look() { printf -- '-- %s\n' "$1" && grep -E '^(DEBT|OWED|STALL|LEVEL|L[0-9] |total|PROBES|WRITTEN)' "$mnt/.stats"; }
live() { printf -- '-- %s\n' "$1" && grep -A 30 '^trace' "$mnt/.stats.d/trace" | grep -B 1 -A 8 ' get block' | head -n "${2:-12}"; }
trace() { printf -- '-- %s\n' "$1" && "$kvfs" explain "$mnt/file" "$2"; }

# Eight blocks of 4 KiB at block $1 of the file, and then a table: a memtable of eight entries.
eight() {
    dd if=/dev/urandom of="$mnt/file" bs=4096 seek="$1" count=8 conv=notrunc,fsync status=none
    "$kvfs" ctl "$mnt" flush wait
}

run() {
    say "bloom_bits=$1: mount with preset=tiny, memtables of eight entries, and let no policy ask for merges"
    "$kvfs" mount "$work/db$1" "$mnt" -o "engine=lsm,preset=tiny,bloom_bits=$1,direct_io=on"
    mounted=yes
    "$kvfs" ctl "$mnt" auto_compact off

    say "1. Fill and flush: the write costs the log at once and a table later"
    look before
    dd if=/dev/urandom of="$mnt/file" bs=4096 count=8 conv=fsync status=none
    look "eight blocks are in the memtable and in the log"
    "$kvfs" ctl "$mnt" flush wait
    look "after the flush they are in L0; eight entries fill a memtable, so there may be two tables"

    say "2. Trace a read: memtable, then L0 newest first, until one knows the key"
    trace "block 0 lies in a table" 0
    dd if=/dev/urandom of="$mnt/file" bs=4096 count=1 conv=notrunc,fsync status=none
    trace "written again, it is in the memtable" 0
    "$kvfs" ctl "$mnt" trace on
    dd if="$mnt/file" of=/dev/null bs=4096 skip=7 count=1 status=none
    live "the same as it happens, with 'trace on': what reading block 7 asked"
    "$kvfs" ctl "$mnt" trace off

    say "3. Pile up L0: nine more tables, and a read of the oldest asks them all"
    for n in 1 2 3 4 5 6 7 8 9; do
        eight $((n * 8))
        # The first and the last block again, so that every table spans the key of the one we read.
        dd if=/dev/urandom of="$mnt/file" bs=4096 count=1 conv=notrunc,fsync status=none
        dd if=/dev/urandom of="$mnt/file" bs=4096 seek=80 count=1 conv=notrunc,fsync status=none
    done
    "$kvfs" ctl "$mnt" flush wait
    look "ten tables and more lie over each other"
    trace "block 7 was written once, first of all" $((7 * 4096))

    say "4. Compact and read again"
    "$kvfs" ctl "$mnt" auto_compact on
    "$kvfs" ctl "$mnt" compact 0 wait
    look "'compact 0' has merged level 0 wholly into level 1"
    "$kvfs" ctl "$mnt" compact wait
    look "one sorted run"
    trace "the same block" $((7 * 4096))

    "$kvfs" umount "$mnt"
    mounted=
}

run 0
run 10
say "with filters, tables that do not have the key are asked in memory only ('filtered')"

modes=${MODES-all}
[ "$modes" != none ] || exit 0
say "5. The five failure modes: provoked, shown by .stats, and met"
for tool in fio jq python3; do
    if ! command -v "$tool" >/dev/null; then
        echo "$tool is not installed, so they are left out (apt-get install fio jq python3)"
        exit 0
    fi
done
[ "$modes" != all ] || modes=
# shellcheck disable=SC2086  # a list of words
KVFS=$kvfs SIZE=${SIZE:-64} "$repository/fio-jobs/failure-modes.sh" "$work" $modes
