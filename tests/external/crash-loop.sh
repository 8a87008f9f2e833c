#!/usr/bin/env bash
# A store that crashes again and again on a small disk. Exit code 0 if each crash costs nothing: no space, no longer recovery.
usage() {
    cat <<TEXT
usage: tests/external/crash-loop.sh [--rounds N] [--engine lsm|btree]

For each engine a store with default options on an ext4 of 300 MB on a loop device. N times (default 100): a file of 100 KB is
written (in every third round nothing is), the daemon is killed with SIGKILL, in every fifth round once more in the middle
of the recovery, and the store is mounted anew. Prints each tenth round: bytes of log and of the whole store on the disk,
what the recovery read, milliseconds to mount. Fails if the log or the store's size or the bytes read grow from the first
twenty rounds to the last twenty by more than what was written and two segments, if a file is missing or wrong, or if
kvfs check finds anything. The milliseconds are not judged. Must be run by root.

KVFS_BIN names the program under test; KVFS_WORK the folder for the image (default /var/tmp).
TEXT
}

# shellcheck source=tests/external/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
rounds=100
read_arguments "$@"
begin crash-loop

segment=$((16 << 20))

# Ends it somewhere in the recovery, or just after.
die_again() {
    # In a subshell, which takes the word of its end with it.
    (timeout -s KILL "0.0$((RANDOM % 9 + 1))" "$kvfs" mount "$store" "$mnt" -f -o "engine=$engine" || true) >/dev/null 2>&1
    if mountpoint -q "$mnt"; then umount -l "$mnt"; fi
}

crash_loop() { # ENGINE
    loop_disk ext4 300M -m 0
    fresh "$1" '' "$work/disk/store"
    mkdir "$mnt/f"
    : >"$work/sums"
    : >"$work/rounds"
    local round began took
    for round in $(seq "$rounds"); do
        if [ $((round % 3)) != 0 ]; then
            head -c 100000 /dev/urandom >"$mnt/f/$round"
            (cd "$mnt" && sha256sum "f/$round") >>"$work/sums"
        fi
        die
        [ $((round % 5)) != 0 ] || die_again
        began=$(date +%s%N)
        start
        took=$((($(date +%s%N) - began) / 1000000))
        echo "$round $(occupied 'log.*') $(occupied '*') $(figure .disk.by_purpose.recovery.read_bytes) $took" >>"$work/rounds"
        tail -n 3 "$work/sums" >"$work/sums.last"
        intact "$work/sums.last"
    done
    stop
    check_store
    start
    intact "$work/sums"
    stop
}

# By column: the largest of the first twenty rounds and of the last twenty, and what may lie between them.
flat() { # COLUMN NAME BYTES_MORE
    local first last
    first=$(head -n 20 "$work/rounds" | awk -v c="$1" '$c > m { m = $c } END { print m + 0 }')
    last=$(tail -n 20 "$work/rounds" | awk -v c="$1" '$c > m { m = $c } END { print m + 0 }')
    echo "$2: at most $first in the first 20 rounds, $last in the last 20; allowed $((first + $3))"
    [ "$(wc -l <"$work/rounds")" = "$rounds" ]
    [ "$last" -le $((first + $3)) ]
}

while read -r which; do
    echo "== $rounds crashes on 300 MB, engine=$which"
    attempt "$which, killed and mounted $rounds times" $((120 + rounds * 12)) crash_loop "$which"
    printf '    %5s %12s %12s %12s %9s\n' round 'log' 'store' 'read' 'mount ms'
    awk 'NR == 1 || NR % 10 == 0 { printf "    %5d %12d %12d %12d %9d\n", $1, $2, $3, $4, $5 }' "$work/rounds"
    written=$((rounds * 100000))
    attempt "$which, bytes of log on the disk" 10 flat 2 log $((2 * segment))
    sed 's/^/    /' "$work/output.txt"
    attempt "$which, bytes of the store on the disk" 10 flat 3 store $((2 * segment + written * 2))
    sed 's/^/    /' "$work/output.txt"
    attempt "$which, bytes that a recovery reads" 10 flat 4 read $((2 * segment))
    sed 's/^/    /' "$work/output.txt"
    unmount_all
done < <(engines "$which")
total
