#!/usr/bin/env bash
# One workload on every compaction policy, with values in tables and in the log: the table in the README.
set -euo pipefail

usage() {
    cat <<TEXT
usage: fio-jobs/policies.sh DIR [POLICY...]

Makes a small store in a new directory under DIR for each compaction policy (default: all), and for each with value_log=off and
on; fills a file, overwrites twice its size in random blocks of 4 KiB, and reads random blocks. Prints a row for each store; the
B-tree's is the last. Everything is removed afterwards. About a minute a row.

Memory is small beside the data, as it is in a large store with the defaults: a memtable of 1/64 of the data, L1 of four memtables.

columns: MB/s (10^6 bytes) and 99th percentile of the overwrites; write amplification of the overwrites when they have ended, when
merges have come to rest, and at rest without the log; random reads a second, structures asked for a point read, bytes read at the disk
for a byte read; space amplification at the end of the overwrites and at rest.

environment:
  KVFS   the binary   (target/release/kvfs of this tree)
  SIZE   megabytes of the data set   (256)
TEXT
}

# shellcheck source=fio-jobs/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# The names of all policies, as the help of the option lists them: each before what it does, in brackets.
every_policy() {
    "$kvfs" mount --help | awk '/^  policy /{on = 1} on {print} on && /Default/ {exit}' | tr -s ' \n' ' ' |
        grep -oE '[a-z-]+ \(' | tr -d ' ('
}

arguments "$@"
parent=${1%/}
shift
policies=("$@")
[ ${#policies[@]} -gt 0 ] || mapfile -t policies < <(every_policy && echo btree)
[ ${#policies[@]} -gt 0 ] || die "$kvfs mount --help names no policy"
size=${SIZE:-256}
[ "$size" -ge 64 ] || die "SIZE=$size is too small: a memtable is 1/64 of it, and at least a megabyte"
tools fio jq
scratch_mount "$parent"

ctl() {
    "$kvfs" ctl "$mount" "$@"
}

# figure FILTER [MARK]: something of the JSON, since a mark or since the mount.
figure() {
    local file=$mount/.stats.d/json
    [ -z "${2:-}" ] || file=$mount/.stats.d/since/$2.json
    jq -r "def r: if . == null then \"-\" else (. * 100 | round) / 100 | tostring end; $1" "$file"
}

# Waits until nothing is left to merge, five minutes at most.
settle() {
    local turn
    ctl "flush wait"
    for turn in $(seq 600); do
        [ "$(figure '.debt.pending_compaction_bytes + (.jobs | length)')" != 0 ] || return 0
        sleep 0.5
    done
    die "merges do not come to rest after $((turn / 2)) s"
}

job() {
    local name=$1
    shift
    fio --name="$name" --filename="$mount/data" --size="${size}m" --ioengine=psync --randseed=7 --output-format=json "$@" \
        >"$home/$name.json" 2>"$home/fio.log" || { cat "$home/fio.log" >&2; die "fio failed"; }
}

row() {
    printf '%-12s %-4s | %6s %8s | %6s %6s %6s | %8s %6s %6s | %6s %6s\n' "$@"
}

memory=$((size / 64))M
row policy vlog MB/s p99us w-end w-rest no-log reads/s probes r-amp space rest
for policy in "${policies[@]}"; do
    for value_log in off on; do
        if [ "$policy" = btree ]; then
            [ "$value_log" = off ] || continue
            options=engine=btree,dirty_max=$((size / 32))M,checkpoint_log=$((size / 8))M,cache=$((size / 16))M
        else
            options=engine=lsm,policy=$policy,value_log=$value_log,memtable=$memory,table=$memory,log_segment=$memory
            options=$options,level_base=$((size / 16))M,cache=$((size / 16))M,window=10s
        fi
        "$kvfs" mount "$home/store" "$mount" -o "$options"
        job fill --rw=write --bs=1m
        settle
        ctl mark run
        job overwrite --rw=randwrite --bs=4k --io_size="$((size * 2))m" --norandommap
        ctl sync
        sleep 1
        w_end=$(figure '.amplification.write | r' run)
        space_end=$(figure '.amplification.space | r')
        settle
        ctl sync
        sleep 1
        w_rest=$(figure '.amplification.write | r' run)
        no_log=$(figure '.amplification.write_no_wal | r' run)
        space_rest=$(figure '.amplification.space | r')
        ctl mark reads
        job read --rw=randread --bs=4k --runtime=5 --time_based
        row "$policy" "$value_log" "$(jq -r '.jobs[0].write.bw_bytes / 1e6 | round' "$home/overwrite.json")" \
            "$(jq -r '.jobs[0].write.clat_ns.percentile["99.000000"] / 1000 | round' "$home/overwrite.json")" \
            "$w_end" "$w_rest" "$no_log" "$(jq -r '.jobs[0].read.iops | round' "$home/read.json")" \
            "$(figure '.probes.mean | r' reads)" "$(figure '.amplification.read | r' reads)" "$space_end" "$space_rest"
        "$kvfs" umount "$mount"
        rm -rf "$home/store"
    done
done
