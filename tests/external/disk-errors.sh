#!/usr/bin/env bash
# A disk that fails below a mounted store. Exit code 0 if programs are told, nothing acknowledged is lost, and nothing is tried
# in silence.
usage() {
    cat <<TEXT
usage: tests/external/disk-errors.sh [--rounds N] [--engine lsm|btree]

For each engine N times (default 5): a store on an XFS on a loop device, with files that were synced. Then the XFS is shut
down under it (xfs_io -x -c shutdown), so that every read, write and sync fails. A write with fsync must fail, the next
one be refused with EROFS, /.stats say READONLY with the cause, the log name it once, and there must be no second sync (strace of
the daemon, if it is installed). What is in memory is still read. Then the XFS is mounted again, and the store, which must pass the
check and have every file. Must be run by root. tests/disk_errors.rs fails every single request, on a simulated disk.

KVFS_BIN names the program under test; KVFS_WORK the folder for the image (default /var/tmp).
TEXT
}

# shellcheck source=tests/external/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
rounds=5
read_arguments "$@"
begin disk-errors
need xfs_io=xfsprogs mkfs.xfs=xfsprogs python3=python3

write_fails() {
    if dd if=/dev/urandom of="$mnt/new" bs=64K count=4 conv=fsync status=none 2>"$work/refusal"; then
        echo "a write to a disk that fails was accepted and synced"
        return 1
    fi
    cat "$work/refusal"
}

# Everything that changes, by its errno.
read_only() {
    python3 - "$mnt" <<'PYTHON'
import errno, os, sys
mnt = sys.argv[1]
calls = {
    "mkdir": lambda: os.mkdir(mnt + "/directory"),
    "unlink": lambda: os.unlink(mnt + "/kept/1"),
    "rename": lambda: os.rename(mnt + "/kept/2", mnt + "/kept/moved"),
    "create": lambda: os.open(mnt + "/other", os.O_CREAT | os.O_WRONLY),
    "truncate": lambda: os.truncate(mnt + "/kept/3", 0),
}
for name, call in calls.items():
    try:
        call()
    except OSError as error:
        if error.errno != errno.EROFS:
            sys.exit(f"{name}: {error}")
    else:
        sys.exit(f"{name} was accepted")
PYTHON
}

says_so() {
    local state cause
    state=$(head -n 1 "$mnt/.stats")
    cause=$(grep -o 'READONLY  .* failed: .*' "$mnt/.stats" | head -n 1)
    echo "$state: $cause"
    case $state in *state=READONLY*) ;; *) return 1 ;; esac
    [ -n "$cause" ]
    # The report may cut it where its line ends.
    cause=${cause#READONLY  }
    cause=${cause:0:40}
    [ "$(grep -cF 'read-only from here on' "$work/kvfs.log")" = 1 ]
    grep -F 'read-only from here on' "$work/kvfs.log" | grep -qF "$cause"
}

# Of files that the disk does not give any more: what the kernel and we still have, as it was, and the rest refused.
in_memory() {
    local found
    found=$(cd "$mnt/kept" && sha256sum -c "$work/sums" 2>/dev/null || true)
    echo "$found" | grep -v ': OK$' || true
    ! grep -q ': FAILED$' <<<"$found"
    [ "$(grep -c ': OK$' <<<"$found")" -ge 20 ]
}

intact() { (cd "$mnt/kept" && sha256sum --quiet -c "$work/sums"); }

while read -r which; do
    echo "== a disk that fails, engine=$which"
    loop_disk xfs 400M
    fresh "$which" "" "$work/disk/store"
    mkdir "$mnt/kept"
    for i in $(seq 30); do head -c $((i * 20011)) /dev/urandom >"$mnt/kept/$i"; done
    (cd "$mnt/kept" && sha256sum ./*) >"$work/sums"
    sync "$mnt"/kept/* "$mnt/kept"
    for round in $(seq "$rounds"); do
        name="$which, round $round"
        stop
        # In the foreground, so that the log is not on the disk that fails.
        "$kvfs" mount "$store" "$mnt" -f -o "engine=$which,atime=noatime" >"$work/kvfs.log" 2>&1 &
        foreground=$!
        for _ in $(seq 100); do ! mountpoint -q "$mnt" || break; sleep 0.1; done
        [ $((round % 2)) = 1 ] || head -c 300000 /dev/urandom >"$mnt/unsynced"
        intact
        xfs_io -x -c shutdown "$work/disk"
        attempt "$name: a write with fsync fails" 60 write_fails
        trace=
        if command -v strace >/dev/null; then
            # Reads, too: they show that something was traced.
            strace -f -qq -e trace=fsync,fdatasync,syncfs,sync_file_range,read,readv -o "$work/trace" -p "$foreground" 2>/dev/null &
            trace=$!
            sleep 1
        fi
        attempt "$name: every change is refused" 60 read_only
        attempt "$name: fsync goes on failing" 60 write_fails
        attempt "$name: the report and the log say so" 60 says_so
        attempt "$name: what is in memory is read" 60 in_memory
        sleep 2
        if [ -n "$trace" ]; then
            kill "$trace" 2>/dev/null || true
            wait "$trace" 2>/dev/null || true
            if ! grep -q 'read' "$work/trace"; then
                fail "$name: strace saw nothing"
            elif grep sync "$work/trace"; then
                fail "$name: a failed sync was tried again"
            else
                pass "$name: no sync is tried again"
            fi
        fi
        timeout 60 "$kvfs" umount "$mnt" >/dev/null 2>&1 || umount -l "$mnt" || true
        wait "$foreground" || true
        until umount "$work/disk" 2>/dev/null; do sleep 0.1; done
        mount -o loop "$work/disk.img" "$work/disk"
        attempt "$name: kvfs check" 120 check_store
        start
        attempt "$name: every synced file is there" 60 intact
    done
    stop
    umount "$work/disk"
done < <(engines "$which")
total
