#!/usr/bin/env bash
# Write amplification of the B-tree in its three torn-page modes, on mounts: random overwrites of 4 KiB in a file larger than the
# pool, and creation of small files; each with the parts that the counters explain it by. Leaves nothing behind.
set -euo pipefail

usage() {
    cat <<TEXT
usage: mount-scripts/torn.sh [KVFS]

KVFS is the program (default: kvfs in the PATH, or target/release/kvfs). Prints a row for each mode and workload: bytes at the disk's
door over bytes of the application, and the parts: log, copies of pages (image, delta, doublewrite), pages and values in their
places, free map and meta pages. 'apart' is the share of the disk's bytes that the parts do not explain; above 5 % the script fails.
Beside them two witnesses who do not ask us, over the same bytes of the application: 'kernel', what the daemon dirtied as
/proc/PID/io has it (whole folios of the page cache, up to megabytes for a write of a page: no measure of a disk), and 'device',
what the block device below BASE wrote: the filesystem's journal and everybody else are in it, and a page that was written twice
before it left the page cache is in it once. '-' where BASE lies on none.

environment:
  BASE   where the stores are made (/var/tmp; should be a disk, not a tmpfs)
  SIZE   bytes of the file in MiB (128)
  CACHE  the pool (16M)
  WRITES random overwrites (16384)
  FILES  small files (4000)
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
for tool in fio jq; do
    command -v "$tool" >/dev/null || { echo "$tool is not installed (apt-get install fio jq)" >&2 && exit 2; }
done
size=${SIZE:-128} cache=${CACHE:-16M} writes=${WRITES:-16384} files=${FILES:-4000}
work=$(mktemp -d "${BASE:-/var/tmp}/kvfs-torn.XXXXXX")
mnt=$work/mnt
mkdir "$mnt"
mounted=

cleanup() {
    [ -z "$mounted" ] || "$kvfs" umount "$mnt" || "$kvfs" umount -l "$mnt" || true
    rm -rf --one-file-system "$work"
}
trap cleanup EXIT

# Sectors that the device below has written, in the file $1; nothing where there is no device.
device_file=/sys/dev/block/$(stat -c '%Hd:%Ld' "$work" 2>/dev/null)/stat
device() {
    awk '{ print $7 }' "$device_file" >"$1" 2>/dev/null || : >"$1"
}

# What a checkpoint has settled, as JSON in the file $1, and the device's sectors in $1.device.
settled() {
    sync -f "$mnt"
    "$kvfs" ctl "$mnt" checkpoint wait
    sync -f "$work"
    device "$1.device"
    cat "$mnt/.stats.d/json" >"$1"
}

# One row: the workload $1 of mode $2, between the reports before and after.
row() {
    local sectors=
    [ ! -s "$work/before.device" ] || sectors=$(($(cat "$work/after.device") - $(cat "$work/before.device")))
    jq -rn --arg workload "$1" --arg mode "$2" --arg sectors "$sectors" --slurpfile a "$work/before" --slurpfile b "$work/after" '
        def grown(f): ($b[0] | f) - ($a[0] | f);
        def cause(name): grown(.tree.pages.written.cause[name].bytes);
        grown(.app.write_bytes) as $app
        | grown(.disk.write_bytes) as $disk
        | grown(.disk.by_purpose | .wal.write_bytes + .log_prepare.write_bytes) as $log
        | (cause("image") + cause("delta") + cause("double_write")) as $copies
        | (cause("change") + cause("split") + cause("merge") + cause("compaction")) as $homes
        | (cause("checkpoint") + cause("recovery")) as $meta
        | ($log + $copies + $homes + $meta) as $parts
        | (($disk - $parts) / $disk * 100 | fabs) as $apart
        | [$workload, $mode, ($disk / $app), ($log / $app), ($copies / $app), ($homes / $app), ($meta / $app), $apart,
            (grown(.process.write_bytes) / $app), (if $sectors == "" then "-" else ($sectors | tonumber) * 512 / $app end)]
        | @tsv' | tee -a "$work/rows" |
        awk -F'\t' '{
            printf "%-12s %-12s %8.2f %8.2f %8.2f %8.2f %8.2f %7.2f%% %8.2f ", $1, $2, $3, $4, $5, $6, $7, $8, $9
            if ($10 == "-") print "       -"; else printf "%8.2f\n", $10
        }'
}

printf '%-12s %-12s %8s %8s %8s %8s %8s %8s %8s %8s\n' workload torn W log copies homes meta apart kernel device
for mode in delta doublewrite image; do
    "$kvfs" mount "$work/$mode" "$mnt" -o "engine=btree,torn=$mode,cache=$cache,dirty_max=$cache"
    mounted=yes
    dd if=/dev/urandom of="$mnt/file" bs=1M count="$size" conv=fsync status=none
    settled "$work/before"
    fio --name=overwrite --filename="$mnt/file" --rw=randwrite --bs=4k --size="${size}m" --io_size="$((writes * 4))k" \
        --randseed=1 --ioengine=psync --fallocate=none --end_fsync=1 --output=/dev/null
    settled "$work/after"
    row overwrite "$mode"
    mkdir "$mnt/files"
    settled "$work/before"
    for number in $(seq "$files"); do
        printf 'some lines of a small file: %s\n' "$number" "$number" "$number" >"$mnt/files/$number"
    done
    settled "$work/after"
    row create "$mode"
    "$kvfs" umount "$mnt"
    mounted=
    rm -rf --one-file-system "${work:?}/$mode"
done
worst=$(cut -f 8 "$work/rows" | sort -g | tail -n 1)
awk -v worst="$worst" 'BEGIN { exit worst > 5 }' || { echo "the counters explain all but $worst %" >&2 && exit 1; }
