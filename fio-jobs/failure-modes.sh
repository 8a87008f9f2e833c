#!/usr/bin/env bash
# The five ways in which a storage engine fails its users, each provoked on a mount, shown by .stats, and met.
set -euo pipefail

all=(write-amplification compaction-storm space-amplification tombstones hot-keys)

usage() {
    cat <<TEXT
usage: fio-jobs/failure-modes.sh DIR [MODE...]

Makes a small store in a new directory under DIR for each case, mounts it, provokes a failure mode (default: all five),
prints what .stats says of it, and does the same again with the counter-measure. Everything is removed afterwards.
A minute or two each.

modes:
  write-amplification   uniform overwrites of a data set far larger than memory: policy=leveled, then policy=tiered
  compaction-storm      reads beside merges: unthrottled, then with rate=
  space-amplification   overwrites with compaction switched off, then switched on again
  tombstones            a large directory is filled and removed: listing it while the tombstones are there, then after compact
  hot-keys              overwrites of a hot set that the memtable holds, and of one that it does not hold

environment:
  KVFS   the binary   (target/release/kvfs of this tree)
  SIZE   megabytes of the data set   (128)
TEXT
}

# shellcheck source=fio-jobs/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

arguments "$@"
parent=${1%/}
shift
modes=("$@")
[ ${#modes[@]} -gt 0 ] || modes=("${all[@]}")
size=${SIZE:-128}
tools fio jq python3
scratch_mount "$parent"

# Small memtables and levels: a data set of a hundred megabytes is to this store what one of terabytes is to one with the
# defaults.
small=memtable=4M,level_base=16M,table=4M,log_segment=4M,cache=16M

# begin OPTIONS: a new store, mounted.
begin() {
    rm -rf "$home/store"
    "$kvfs" mount "$home/store" "$mount" -o "engine=lsm,$small,$1"
}

end() {
    "$kvfs" umount "$mount"
}

ctl() {
    "$kvfs" ctl "$mount" "$@"
}

# figure FILTER [MARK]: something of the JSON, since a mark or since the mount.
figure() {
    local file=$mount/.stats.d/json
    [ -z "${2:-}" ] || file=$mount/.stats.d/since/$2.json
    jq -r "def r: if . == null then \"-\" else (. * 100 | round) / 100 | tostring end; def mib: (. / 1048576 | round | tostring) + \" MiB\"; $1" "$file"
}

# Random 4 KiB overwrites: overwrite NAME FACTOR [fio options], FACTOR times the size of the file.
overwrite() {
    local name=$1 factor=$2
    shift 2
    fio --name="$name" --filename="$mount/data" --rw=randwrite --bs=4k --size="${size}m" --io_size="$((size * factor))m" \
        --norandommap --randseed=7 --ioengine=psync --output-format=json "$@" >"$home/$name.json" 2>"$home/fio.log" ||
        { cat "$home/fio.log" >&2; die "fio failed"; }
}

fill() {
    fio --name=fill --filename="$mount/data" --rw=write --bs=1m --size="${size}m" --ioengine=psync --output-format=json \
        >"$home/fill.json" 2>"$home/fio.log" || { cat "$home/fio.log" >&2; die "fio failed"; }
    ctl sync
}

# Waits until nothing is left to merge, two minutes at most.
settle() {
    local turn
    ctl "flush wait"
    for turn in $(seq 240); do
        [ "$(figure '.debt.pending_compaction_bytes + (.jobs | length)')" != 0 ] || return 0
        sleep 0.5
    done
    die "merges do not come to rest after $((turn / 2)) s"
}

# Space as it is now: what the files occupy is looked at once a second.
space_now() {
    sleep 1.5
    figure '.amplification.space | r'
}

# What was written goes to the disk and out of the page cache, where we may: reads then meet the disk.
cool() {
    ctl sync
    sync
    if [ -w /proc/sys/vm/drop_caches ]; then echo 3 >/proc/sys/vm/drop_caches; fi
}

rate_of() {
    jq -r '(.jobs[0].write.bw_bytes / 1e6 * 10 | round) / 10' "$home/$1.json"
}

write_amplification() {
    local policy
    printf '%-10s %8s %10s %12s %10s %8s\n' policy MB/s w-total w-without-log read-probes space
    for policy in leveled tiered; do
        begin "policy=$policy"
        fill
        settle
        ctl mark run
        overwrite run 4
        settle
        printf '%-10s %8s %10s %12s %10s %8s\n' "$policy" "$(rate_of run)" "$(figure '.amplification.write | r' run)" \
            "$(figure '.amplification.write_no_wal | r' run)" "$(figure '[.levels[].runs] | add')" \
            "$(space_now)"
        end
    done
    echo "Leveled rewrites a byte about once for each level that it overlaps; tiered merges runs of a size, and pays in runs and space."
}

compaction_storm() {
    local rate
    printf '%-14s %12s %12s %12s %12s %14s\n' merges reads/s p50us p99us p99.9us merged
    for rate in off 8M; do
        begin "policy=leveled"
        fill
        ctl "auto_compact off"
        overwrite debt 2
        ctl "rate $rate"
        cool
        ctl mark run
        ctl "auto_compact on"
        fio --name=read --filename="$mount/data" --rw=randread --bs=4k --size="${size}m" --ioengine=psync --runtime=10 \
            --time_based --randseed=3 --output-format=json >"$home/read.json" 2>"$home/fio.log" ||
            { cat "$home/fio.log" >&2; die "fio failed"; }
        printf '%-14s %12s %12s %12s %12s %14s\n' "$([ "$rate" = off ] && echo unthrottled || echo "rate=$rate")" \
            "$(jq -r '.jobs[0].read.iops | round' "$home/read.json")" \
            "$(jq -r '.jobs[0].read.clat_ns.percentile["50.000000"] / 1000 | round' "$home/read.json")" \
            "$(jq -r '.jobs[0].read.clat_ns.percentile["99.000000"] / 1000 | round' "$home/read.json")" \
            "$(jq -r '.jobs[0].read.clat_ns.percentile["99.900000"] / 1000 | round' "$home/read.json")" \
            "$(figure '[.disk.by_purpose | to_entries[] | select(.key | startswith("compact")) | .value.write_bytes] | add // 0 | mib' run)"
        end
    done
    echo "The throttle spreads the same debt over more time: readers meet less of it at any moment, and more runs for longer."
}

space_amplification() {
    begin "policy=leveled"
    fill
    ctl "auto_compact off"
    overwrite run 3
    ctl sync
    show() {
        printf '%-28s %10s %14s %10s\n' "$1" "$(space_now)" \
            "$(figure '.space.physical_bytes | mib')" "$(figure '.debt.l0_files')"
    }
    printf '%-28s %10s %14s %10s\n' moment space physical l0-files
    show "compaction off, overwritten"
    grep -h "l0 stop off" "$mount/.stats" || true
    ctl "auto_compact on"
    settle
    show "merged"
    end
    echo "What merges have not thrown away yet takes space: the old versions of every block."
}

tombstones() {
    local files=50000
    begin "policy=leveled"
    mkdir "$mount/many"
    (cd "$mount/many" && seq -f 'file-%05g' "$files" | xargs touch)
    settle
    ctl "auto_compact off"
    (cd "$mount/many" && seq -f 'file-%05g' "$files" | xargs rm)
    sleep 1
    show() {
        printf '%-28s %12s %22s\n' "$1" "$(figure '.debt.tombstones')" "$(python3 - "$mount/many" <<'PYTHON'
import os, sys, time
began = time.monotonic()
count = 0
while time.monotonic() - began < 3:
    # A change each time: the kernel keeps a listing that is still true.
    path = os.path.join(sys.argv[1], "x")
    os.rmdir(path) if os.path.exists(path) else os.mkdir(path)
    os.listdir(sys.argv[1])
    count += 1
print(round(count / (time.monotonic() - began)))
PYTHON
)"
    }
    printf '%-28s %12s %22s\n' moment tombstones "listings a second"
    show "$files files removed"
    ctl "auto_compact on"
    settle
    show "merged"
    end
    echo "A delete is a write; until a merge reaches the bottom, scans step over it."
}

hot_keys() {
    local hot
    printf '%-28s %10s %16s %12s\n' "hot set" w-total flushed-per-byte MB/s
    for hot in 2 64; do
        begin "policy=leveled"
        fill
        settle
        ctl mark run
        overwrite run 2 --size="${hot}m" --io_size="$((size * 2))m"
        ctl sync
        printf '%-28s %10s %16s %12s\n' "$hot MiB, memtable 4 MiB" "$(figure '.amplification.write | r' run)" \
            "$(figure '.disk.by_purpose.flush.write_bytes / .app.write_bytes | r' run)" "$(rate_of run)"
        end
    done
    echo "An overwrite that meets its key in the memtable costs the log alone; one that does not is flushed and merged."
}

for mode in "${modes[@]}"; do
    case " ${all[*]} " in
    *" $mode "*) ;;
    *) die "no mode '$mode'; there are: ${all[*]}" ;;
    esac
done
for mode in "${modes[@]}"; do
    printf '\n== %s\n' "$mode"
    "${mode//-/_}"
done
