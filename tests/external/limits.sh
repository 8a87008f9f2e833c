#!/usr/bin/env bash
# What else can run out or be forbidden below a store. Exit code 0 if programs are told, nothing is lost, and deleting goes on.
usage() {
    cat <<TEXT
usage: tests/external/limits.sh [--engine lsm|btree] [--only WORD]

For each engine, on a small ext4 on a loop device:
  inodes           others take every inode below while files are written: what fails says ENOSPC; deletes work, also after a
                   kill and a mount; when inodes are free again, writing goes on
  file size        the daemon runs under \`ulimit -f\` of 100 MiB: it lives, and what is refused is EFBIG or ENOSPC
  memory           the daemon has a control group with 200 MB and \`memory=64M\`, writes, is killed with log to be replayed
                   (B-tree: more than 100 MB), and mounted there again: the kernel never ends it
  descriptors      400 MB with tables of 1 MiB under \`ulimit -Sn 128\`, and under a hard limit of 128: nothing fails, nor the next mount
  read-only below  the disk is mounted read-only, before and after a kill: a mount with ro reads everything
Everything acknowledged is compared by its checksum, and kvfs check is clean. Must be run by root.

  --only WORD   only the cases whose name contains it

KVFS_BIN names the program under test; KVFS_WORK the folder for the image (default /var/tmp).
TEXT
}

# shellcheck source=tests/external/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
read_arguments "$@"
begin limits
need python3=python3

# Small tables, so that there are many files.
tables() { [ "$1" = btree ] || echo table=1M,memtable=1M,level_base=4M; }

# write_files FOLDER COUNT BYTES ERRNO...: SUMS gets what was written whole; any other error than those named fails. Ends at
# the first error.
write_files() {
    timeout 400 python3 - "$mnt" "$work/sums" "$@" <<'PYTHON'
import errno, hashlib, os, sys
mnt, sums, folder, count, size = sys.argv[1:6]
allowed = sys.argv[6:]
os.makedirs(f"{mnt}/{folder}", exist_ok=True)
with open(sums, "a") as record:
    for number in range(int(count)):
        data = os.urandom(int(size))
        try:
            with open(f"{mnt}/{folder}/{number}", "wb", buffering=0) as file:
                done = 0
                while done < len(data):
                    done += file.write(data[done:])
                os.fsync(file.fileno())
        except OSError as error:
            print(f"{number} files, then {error}")
            sys.exit(0 if errno.errorcode[error.errno] in allowed else 1)
        record.write(f"{hashlib.sha256(data).hexdigest()}  {folder}/{number}\n")
print(f"{count} files")
PYTHON
}

take_inodes() {
    mkdir -p "$work/disk/others"
    local number=0
    while { : >"$work/disk/others/$number"; } 2>/dev/null; do number=$((number + 1)); done
    echo "- others took $number inodes"
}

inodes() { # ENGINE
    loop_disk ext4 600M -m 0 -N 320
    fresh "$1" "$(tables "$1")" "$work/disk/store"
    : >"$work/sums"
    write_files f 60 1000000
    take_inodes
    write_files g 200 1000000 ENOSPC
    echo "- deleting"
    removed f "$work/sums" 2
    die
    take_inodes
    echo "- mounting with ro"
    start ro
    intact "$work/sums"
    stop
    echo "- mounting"
    start
    intact "$work/sums"
    removed f "$work/sums" 2
    stop_full
    check_store
    rm -r "$work/disk/others"
    start
    room f 8000000
    write_files h 20 1000000
    intact "$work/sums"
    stop
    check_store
}

file_size() { # ENGINE
    loop_disk ext4 1G -m 0
    engine=$1 options='' store=$work/disk/store
    (ulimit -f 102400; start)
    : >"$work/sums"
    write_files f 40 10000000 EFBIG ENOSPC
    intact "$work/sums"
    # More of the same, and the daemon is still the same one.
    local daemon
    daemon=$(daemon_of "$mnt")
    [ -n "$daemon" ]
    write_files g 20 10000000 EFBIG ENOSPC
    removed f "$work/sums" 2
    [ "$(daemon_of "$mnt")" = "$daemon" ]
    stop_full
    (ulimit -f 102400; start)
    intact "$work/sums"
    stop_full
    # Without the limit everything goes on.
    start
    intact "$work/sums"
    room f 200000000
    stop
    check_store
}

# A control group, of version 1 or 2.
group=/sys/fs/cgroup/$([ ! -d /sys/fs/cgroup/memory ] || echo memory/)kvfs-test.$$
at_end() { [ ! -d "$group" ] || rmdir "$group"; }

# Makes the group; fails where the kernel has no memory controller.
limit_memory() { # BYTES
    if [ -d /sys/fs/cgroup/memory ]; then
        mkdir -p "$group"
        echo "$1" >"$group/memory.limit_in_bytes"
    else
        echo +memory >/sys/fs/cgroup/cgroup.subtree_control
        mkdir -p "$group"
        echo "$1" >"$group/memory.max"
        # Else what does not fit is swapped out.
        [ ! -e "$group/memory.swap.max" ] || echo 0 >"$group/memory.swap.max"
    fi
}

# Starts in the group; only the daemon stays there.
start_in_group() { (echo "$BASHPID" >"$group/cgroup.procs"; start); }

memory() { # ENGINE
    loop_disk ext4 1G -m 0
    engine=$1 options=memory=64M store=$work/disk/store
    # So that much is left to be replayed.
    [ "$1" = lsm ] || options=$options,checkpoint_log=1G,dirty_max=60M
    limit_memory 200000000
    start_in_group
    : >"$work/sums"
    write_files f 150 1000000
    # Each leaves 4 KiB of 1 MiB, so the log alone grows; who kept the rest of the request in memory would keep all of it.
    timeout 400 python3 - "$mnt/hot" <<'PYTHON'
import os, sys
file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
for number in range(180):
    os.pwrite(file, os.urandom(1 << 20), number * 4096)
PYTHON
    (cd "$mnt" && sha256sum hot) >>"$work/sums"
    sync -f "$mnt"
    local replay_bytes
    replay_bytes=$(figure .debt.replay_bytes)
    echo "- $replay_bytes bytes of log"
    [ "$1" = lsm ] || [ "$replay_bytes" -gt 100000000 ]
    die
    start_in_group
    intact "$work/sums"
    write_files g 50 1000000
    intact "$work/sums"
    stop
    check_store
    # Whoever was ended is noted there.
    ! grep -h '^oom_kill [1-9]' "$group/memory.oom_control" "$group/memory.events" 2>/dev/null
}

descriptors() { # ENGINE ULIMIT_OPTION
    loop_disk ext4 1200M -m 0
    engine=$1 options=$(tables "$1") store=$work/disk/store
    [ "$1" = btree ] || options=$options,cache=16M
    (ulimit "$2" 128; start)
    : >"$work/sums"
    write_files f 40 10000000
    intact "$work/sums"
    stop
    (ulimit "$2" 128; start)
    intact "$work/sums"
    die
    (ulimit "$2" 128; start)
    intact "$work/sums"
    removed f "$work/sums" 2
    write_files g 10 10000000
    intact "$work/sums"
    stop
    check_store
}

read_only_below() { # ENGINE
    loop_disk ext4 300M -m 0
    fresh "$1" '' "$work/disk/store"
    : >"$work/sums"
    write_files f 30 1000000
    if [ "$2" = killed ]; then die; else stop; fi
    mount -o remount,ro "$work/disk"
    find "$work/disk" -type f -exec sha256sum {} + >"$work/below"
    echo "- mounting with ro"
    start ro
    intact "$work/sums"
    stop
    check_store
    sha256sum --quiet -c "$work/below"
    echo "- mounting"
    if start 2>"$work/refusal"; then
        # Then it must be a mount that changes nothing.
        if touch "$mnt/new" 2>/dev/null; then
            echo "a store on a disk that is read-only took a file"
            return 1
        fi
        stop
    else
        cat "$work/refusal"
        grep -q 'read-only' "$work/refusal"
    fi
    mount -o remount,rw "$work/disk"
    start
    intact "$work/sums"
    room f 8000000
    stop
}

limit() { # NAME COMMAND...
    local name=$1
    shift
    case $name in *"$only"*) ;; *) return 0 ;; esac
    attempt "$name" 500 "$@"
    { grep -hE '^[0-9]+ files, then' "$work/output.txt" || true; } | cut -c1-160 | sed 's/^/    /'
    unmount_all
}

while read -r which; do
    echo "== limits below, engine=$which"
    limit "$which, no inodes left below" inodes "$which"
    limit "$which, ulimit -f 102400" file_size "$which"
    limit "$which, 200 MB of memory" memory "$which"
    limit "$which, ulimit -Sn 128" descriptors "$which" -Sn
    limit "$which, ulimit -n 128" descriptors "$which" -n
    limit "$which, unmounted, then read-only below" read_only_below "$which" unmounted
    limit "$which, killed, then read-only below" read_only_below "$which" killed
done < <(engines "$which")
total
