#!/usr/bin/env bash
# Full disks in every state. Exit code 0 if what was unmounted or killed can be opened, read and deleted again, and nothing is lost.
usage() {
    cat <<TEXT
usage: tests/external/full-disk-states.sh [--size SIZE] [--engine lsm|btree] [--only WORD]

For each engine and each of several option sets: a store on an ext4 of SIZE (default 400M) on a loop device is filled through the
mount until ENOSPC, and what was written is recorded. Then it is unmounted or killed (-9), while others, or not,
have taken the last byte of the disk before or after. Then, with the disk as it is: kvfs check is clean; a mount with ro gives back
every file; a mount gives back every file, and deleting half of them works; and when the others have gone, there is room to write
again, also after mounting anew. Two more cases: a kill on a nearly full disk with a log that cannot be cut, and a large disk of which
less than half of the reserve is free. Must be run by root.

  --only WORD   only the cases whose name contains it

KVFS_BIN names the program under test; KVFS_WORK the folder for the image (default /var/tmp).
TEXT
}

# shellcheck source=tests/external/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
size=400M
read_arguments "$@"
begin full-states
need python3=python3

# Without a free byte the store can be read, and nothing changes.
readable() {
    echo "- kvfs check"
    check_store
    echo "- mounting with ro"
    start ro
    echo "- reading"
    intact "$work/sums"
    if touch "$mnt/new" 2>/dev/null; then
        echo "a mount with ro took a new file"
        return 1
    fi
    stop
}

# Deleting works as soon as it is mounted, and writing when there is room again.
usable() {
    echo "- mounting; free below: $(free_below)"
    start
    echo "- reading"
    intact "$work/sums"
    echo "- deleting"
    removed f "$work/sums" 2
    echo "- others give back what they took"
    ease_below
    echo "- writing"
    room f 8000000
    intact "$work/sums"
    echo "- unmounting"
    stop
    check_store
    start
    intact "$work/sums"
    room f 8000000
    stop
}

filled() { # ENGINE OPTIONS STATE
    loop_disk ext4 "$size" -m 0
    fresh "$1" "$2" "$work/disk/store"
    rm -f "$work/sums"
    echo "- filling"
    fill_mount f "$work/sums"
    echo "- the end"
    case $3 in
    'unmounted') stop_full ;;
    'killed') die ;;
    'others fill it, unmounted') fill_below; stop_full ;;
    'others fill it, killed') fill_below; die ;;
    'unmounted, others fill it') stop_full; fill_below ;;
    'killed, others fill it') die; fill_below ;;
    esac
    readable
    usable
}

# A put that waits for its leaf keeps the log, large values are replayed into new places, and there is little room for either.
nearly_full() { # ENGINE OPTIONS
    loop_disk ext4 1400M -m 0
    fresh "$1" "$2" "$work/disk/store"
    mkdir "$mnt/f"
    head -c 600000000 /dev/urandom >"$mnt/f/large"
    sync "$mnt/f/large"
    fill_below 340000000
    touch "$mnt/f/small"
    head -c 235000000 /dev/urandom >"$work/part"
    # Where it runs out of room it may say so, and what it took counts.
    dd if="$work/part" of="$mnt/f/large" bs=1M conv=notrunc,fsync status=none || echo "the overwrite was refused"
    rm "$work/part"
    (cd "$mnt" && sha256sum f/large f/small) >"$work/sums"
    die
    local times
    # Each recovery may cost room; not one more than the last.
    for times in 1 2 3; do
        echo "- recovery $times, free below: $(free_below)"
        check_store
        start
        intact "$work/sums"
        die
    done
    readable
    start
    rm "$mnt/f/large"
    grep small "$work/sums" >"$work/sums.left"
    ease_below
    room f 100000000
    intact "$work/sums.left"
    stop
    check_store
}

# The reserve is a share of the disk: here it is 1 GiB, and less than half of it is free when the store is made, or is mounted.
little_free() { # ENGINE OPTIONS FREE
    loop_disk ext4 100G -m 0
    fresh "$1" "$2" "$work/disk/store"
    mkdir "$mnt/f"
    head -c 3000000 /dev/urandom >"$mnt/f/1"
    (cd "$mnt" && sha256sum f/1) >"$work/sums"
    stop
    fill_below "$3"
    readable
    echo "- mounting with $3 bytes free"
    start
    intact "$work/sums"
    rm "$mnt/f/1"
    die
    start
    [ ! -e "$mnt/f/1" ]
    stop
    check_store
    ease_below
    start
    room f 8000000
    stop
}

# What a collection of the value log needs is there also on a disk that is full.
collected() {
    loop_disk ext4 1G -m 0
    fresh lsm value_log=on "$work/disk/store"
    rm -f "$work/sums"
    fill_mount f "$work/sums"
    removed f "$work/sums" 4
    removed f "$work/sums" 3
    removed f "$work/sums" 2
    echo "- a quarter is left: $(wc -l <"$work/sums") files"
    room f 300000000
    intact "$work/sums"
    stop
    check_store
}

state() { # NAME COMMAND...
    local name=$1
    shift
    case $name in *"$only"*) ;; *) return 0 ;; esac
    attempt "$name" 500 "$@"
    { grep -h 'files, .* bytes, then' "$work/output.txt" || true; } | sed 's/^/    /'
    # Whatever it left.
    unmount_all
}

while read -r which; do
    echo "== full disks, engine=$which"
    option_sets=('' reserve=16M)
    [ "$which" = btree ] || option_sets+=(value_log=on)
    for option_set in "${option_sets[@]}"; do
        for how in unmounted killed 'others fill it, unmounted' 'others fill it, killed' \
            'unmounted, others fill it' 'killed, others fill it'; do
            state "$which, ${option_set:-default options}, $how" filled "$which" "$option_set" "$how"
        done
    done
    small=memtable=8M,cache=32M
    [ "$which" != btree ] || small=dirty_max=8M,cache=32M
    state "$which, $small, killed on a nearly full disk" nearly_full "$which" "$small"
    state "$which, half of the reserve is not free" little_free "$which" '' 400000000
    state "$which, reserve=1M of which half is not free" little_free "$which" reserve=1M 400000000
    state "$which, a tenth of the reserve is not free" little_free "$which" '' 80000000
    [ "$which" != lsm ] || state "lsm, value_log=on, three quarters deleted" collected
done < <(engines "$which")
total
