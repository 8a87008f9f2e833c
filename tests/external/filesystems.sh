#!/usr/bin/env bash
# Stores on every filesystem of this kernel. Exit code 0 if a store can be filled, emptied, killed and read on each.
usage() {
    cat <<TEXT
usage: tests/external/filesystems.sh [--engine lsm|btree] [--only TYPE]

For each engine a store with default options on ext2, ext4, XFS, btrfs, tmpfs, overlayfs and ramfs, each of 1 GiB (loop
devices; 2 GiB for XFS): it is filled until ENOSPC, and the share of the disk that acknowledged data takes is printed and
judged against what may be left: the reserve, the log, and for the LSM-tree room for a merge. Then half is deleted, a quarter of the disk is
written again, the daemon is killed, everything is compared and checked. ramfs has no size: there 200 MB are written. What this kernel
lacks is skipped with a line that says so. Must be run by root.

  --only TYPE   only that filesystem

KVFS_BIN names the program under test; KVFS_WORK the folder for the image (default /var/tmp).
TEXT
}

# shellcheck source=tests/external/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
read_arguments "$@"
begin filesystems
need python3=python3 mkfs.xfs=xfsprogs mkfs.btrfs=btrfs-progs

# Of what was free when the store was made, the percentage that acknowledged data must take at ENOSPC.
least_percent() { if [ "$1" = lsm ]; then echo 50; else echo 70; fi; }

known() { grep -qw "$1" /proc/filesystems || modprobe "$1" 2>/dev/null; }

# The filesystem at $work/disk, and the folder on it for the store in $store.
below() { # TYPE
    store=$work/disk/store
    case $1 in
    ext2) loop_disk ext2 1G -m 0 ;;
    ext4) loop_disk ext4 1G -m 0 ;;
    xfs) loop_disk xfs 2G ;;
    btrfs) loop_disk btrfs 1G 2>/dev/null ;;
    tmpfs) mkdir -p "$work/disk"; mount -t tmpfs -o size=1G,mode=755 tmpfs "$work/disk" ;;
    ramfs) mkdir -p "$work/disk"; mount -t ramfs -o mode=755 ramfs "$work/disk" ;;
    overlay)
        loop_disk ext4 1G -m 0
        mkdir -p "$work/disk/lower" "$work/disk/upper" "$work/disk/work" "$work/overlay"
        mount -t overlay -o "lowerdir=$work/disk/lower,upperdir=$work/disk/upper,workdir=$work/disk/work" overlay "$work/overlay"
        store=$work/overlay/store
        ;;
    esac
}

recorded_bytes() { (cd "$mnt" && awk '{ print $2 }' "$work/sums" | xargs -r stat -c %s) | awk '{ sum += $1 } END { print sum + 0 }'; }

filled() { # ENGINE TYPE
    below "$2"
    local free share least
    least=$(least_percent "$1")
    free=$(free_below)
    fresh "$1" '' "$store"
    rm -f "$work/sums"
    if [ "$1 $2" = "btree btrfs" ] && ! lsattr -d "$store" | grep -q '^[^ ]*C'; then
        echo "btrfs would copy the pages"
        return 1
    fi
    fill_mount f "$work/sums" 4000000
    share=$(($(recorded_bytes) * 100 / free))
    echo "share at ENOSPC: $share % of $((free >> 20)) MiB; free to others: $(($(free_below) >> 20)) MiB; least $least %"
    intact "$work/sums"
    echo "- mounting anew"
    stop_full
    start
    intact "$work/sums"
    echo "- deleting"
    removed f "$work/sums" 2
    echo "- writing a quarter of the disk"
    room f $((free / 4))
    die
    start
    intact "$work/sums"
    stop
    check_store
    [ "$share" -ge "$least" ]
}

without_size() { # ENGINE TYPE
    below "$2"
    fresh "$1" '' "$store"
    mkdir "$mnt/f"
    local number
    for number in $(seq 50); do head -c 4000000 /dev/urandom >"$mnt/f/$number"; done
    (cd "$mnt" && sha256sum f/*) >"$work/sums"
    die
    start
    intact "$work/sums"
    removed f "$work/sums" 2
    room f 100000000
    intact "$work/sums"
    stop
    check_store
}

while read -r which; do
    echo "== filesystems below, engine=$which"
    for type in ext2 ext4 xfs btrfs tmpfs overlay ramfs; do
        [ -z "$only" ] || [ "$only" = "$type" ] || continue
        if ! known "$type"; then
            echo "  skipped $which on $type: this kernel has none"
            continue
        fi
        how=filled
        [ "$type" != ramfs ] || how=without_size
        attempt "$which on $type" 500 "$how" "$which" "$type"
        { grep -h 'share at ENOSPC' "$work/output.txt" || true; } | sed 's/^/    /'
        unmount_all
    done
done < <(engines "$which")
total
