#!/usr/bin/env bash
# fsx: random operations on one file, each read compared with what must be there. Exit code 0 if no seed failed.
usage() {
    cat <<TEXT
usage: tests/external/fsx.sh [--operations N] [--seeds "S…"] [--engine ENGINE|both|all] [--url URL]

Installs fsx into target/tools. For each engine and each of the kernel's caches (writeback_cache off and on, direct_io): a new
store, and for each seed N operations (default 1,000,000, shared by the cases) on a file, in two halves: truncate,
posix_fallocate, punch hole, mmap, copy_file_range, sendfile, fsync, fadvise, close and open. Between the halves and at
the end the store is mounted anew, and the file must have kept its bytes. Must be run by root.

  --operations  operations of all cases together (default 1000000)
  --seeds       seeds of each case (default "1 2 3")
  --engine      only this engine
  --url         stores are made below this URL, by an engine that has them there

KVFS_BIN names the program under test; KVFS_WORK the folder for the stores (default /var/tmp); KVFS_KEEP keeps them.
TEXT
}

# shellcheck source=tests/external/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
operations=1000000
seeds="1 2 3"
read_arguments "$@"
begin fsx
install_tool fsx 0.3.2

cat >"$work/fsx.toml" <<TOML
flen = 1048576
[opsize]
max = 131072
# posix_fallocate of nothing is refused, and fsx takes that for a failure.
min = 1
[weights]
close_open = 1
read = 10
write = 10
mapread = 10
mapwrite = 10
invalidate = 1
truncate = 3
fsync = 0.2
fdatasync = 0.2
posix_fallocate = 2
punch_hole = 4
sendfile = 2
posix_fadvise = 1
copy_file_range = 4
TOML
# Direct I/O and a shared mapping of one file do not agree with each other on any filesystem.
sed -E 's/^(mapread|mapwrite|invalidate|sendfile) = .*/\1 = 0/' "$work/fsx.toml" >"$work/direct.toml"

# half SEED CONFIG: half of a case's operations on a file of its own, which is left as it is.
half() {
    "$tool" -q -f "$work/$2.toml" -N "$each" -S "$1" -P "$work" "$mnt/file-$1"
}

# Bytes and extents, as they are after mounting anew.
kept() {
    local seed
    for seed in $seeds; do sha256sum <"$mnt/file-$seed"; done >"$work/before"
    again
    for seed in $seeds; do sha256sum <"$mnt/file-$seed"; done | cmp - "$work/before"
}

engines "$which" >"$work/engines"
count=$(wc -w <<<"$seeds")
each=$((operations / ($(wc -l <"$work/engines") * 3 * count * 2)))
cases="$operations operations, seeds $seeds"
while read -r which; do
    for cache in writeback_cache=off writeback_cache=on direct_io=on; do
        echo "== fsx, engine=$which, $cache, $each operations a half"
        config=fsx
        [ "$cache" != direct_io=on ] || config=direct
        fresh "$which" "$cache"
        for round in 0 1; do
            for seed in $seeds; do
                # The same name: the second half begins by cutting the file that the first one left.
                attempt "seed $((seed + round * 1000))" 900 half "$((seed + round * 1000))" "$config"
                mv "$mnt/file-$((seed + round * 1000))" "$mnt/file-$seed" 2>/dev/null || true
            done
            kept && pass "the bytes are the same after mounting anew" || fail "bytes differ after mounting anew"
        done
        stop
        check_store || fail "kvfs check"
    done
done <"$work/engines"
total
