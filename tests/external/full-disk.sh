#!/usr/bin/env bash
# A full disk below the store. Exit code 0 if programs see ENOSPC, nothing is lost, and deleting makes room again.
usage() {
    cat <<TEXT
usage: tests/external/full-disk.sh [--size SIZE] [--rounds N] [--engine lsm|btree]

For each engine: a store on an ext4 of SIZE (default 300M) on a loop device, with files whose checksums are recorded and synced.
Then N times (default 3) the mount is filled until ENOSPC by each of: large files, metadata (empty files, names,
attributes), overwrites at random places of a file (which need room for the log, merges and checkpoints alone), and all
at once. Each time the recorded files must be intact, deleting must work, the room must come back, and a new file must be
written and synced. At the end, and once while full, the store is mounted anew and checked. Must be run by root.

KVFS_BIN names the program under test; KVFS_WORK the folder for the image (default /var/tmp).
TEXT
}

# shellcheck source=tests/external/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
size=300M
rounds=3
read_arguments "$@"
begin full-disk
need python3=python3 setfattr=attr

# Writes until ENOSPC, and fails for any other error, or if it never comes: filler.py KIND FOLDER.
cat >"$work/filler.py" <<'PYTHON'
import errno, os, random, sys, time
kind, folder = sys.argv[1:]
os.makedirs(folder, exist_ok=True)
dice = random.Random(kind)
end = time.monotonic() + 240
done = 0

def step(number):
    name = f"{folder}/{kind}-{number}"
    if kind == "large":
        with open(name, "wb", buffering=0) as file:
            for _ in range(16):
                file.write(os.urandom(1 << 20))
            os.fsync(file.fileno())
    elif kind == "metadata":
        os.mkdir(name)
        for index in range(50):
            os.close(os.open(f"{name}/{index}-{'n' * 200}", os.O_CREAT | os.O_WRONLY))
            os.setxattr(f"{name}/{index}-{'n' * 200}", "user.filler", os.urandom(2000))
        if number % 20 == 0:
            os.sync()
    elif kind == "overwrite":
        # A file of an eighth of what is free, written over and over. It is there to stay in its place, so only what the
        # engine owes makes the disk full, and that it may work off: no ENOSPC is right, too.
        path = f"{folder}/overwrite"
        if number == 0:
            free = os.statvfs(folder)
            with open(path, "wb", buffering=0) as file:
                for _ in range(max(1, free.f_bavail * free.f_bsize // 8 >> 20)):
                    file.write(os.urandom(1 << 20))
        with open(path, "r+b", buffering=0) as file:
            length = os.path.getsize(path)
            for _ in range(256):
                os.pwrite(file.fileno(), os.urandom(4096), dice.randrange(max(1, length // 4096)) * 4096)
            os.fdatasync(file.fileno())

try:
    while time.monotonic() < end:
        step(done)
        done += 1
        if kind == "overwrite" and done > 400:
            print(f"{kind}: {done} steps without ENOSPC")
            sys.exit(0)
    print(f"{kind}: no ENOSPC after {done} steps")
    sys.exit(1)
except OSError as error:
    print(f"{kind}: {done} steps, then {error}")
    sys.exit(0 if error.errno == errno.ENOSPC else 1)
PYTHON

fill() { timeout 300 python3 "$work/filler.py" "$1" "$mnt/filler"; }

fill_all() {
    local kind children=() code=0
    for kind in large metadata overwrite; do
        timeout 300 python3 "$work/filler.py" "$kind" "$mnt/filler" &
        children+=($!)
    done
    for kind in "${children[@]}"; do wait "$kind" || code=1; done
    return "$code"
}

intact() { (cd "$mnt/kept" && sha256sum --quiet -c "$work/sums"); }

# Everything that filled goes, the room comes back, and the mount is as it was.
recover() {
    rm -rf "$mnt/filler"
    [ ! -e "$mnt/filler" ]
    local waited=0
    until timeout 60 dd if=/dev/urandom of="$mnt/after" bs=1M count=8 conv=fsync status=none 2>/dev/null; do
        waited=$((waited + 1))
        [ "$waited" -lt 60 ] || { echo "no room a minute after everything was deleted"; df "$mnt" "$work/disk"; return 1; }
        sleep 1
    done
    rm "$mnt/after"
    # Writing is possible at once; that everything is back may take the background a while.
    local free=0 before
    before=$(cat "$work/free")
    for waited in $(seq 120); do
        free=$(df --output=avail -B1 "$mnt" | tail -n 1)
        [ "$free" -lt $((before * 6 / 10)) ] || return 0
        sleep 1
    done
    echo "only $free of $before bytes are free again after $waited s"
    return 1
}

while read -r which; do
    echo "== full disk of $size, engine=$which"
    loop_disk ext4 "$size"
    # So that merges and checkpoints are under way all the time.
    small=memtable=2M,table=2M,level_base=8M,log_segment=2M
    [ "$which" != btree ] || small=dirty_max=8M,checkpoint_log=8M,log_segment=2M
    fresh "$which" "$small" "$work/disk/store"
    mkdir "$mnt/kept"
    for i in $(seq 40); do head -c $((i * 30011)) /dev/urandom >"$mnt/kept/$i"; done
    (cd "$mnt/kept" && sha256sum ./*) >"$work/sums"
    sync "$mnt"/kept/* "$mnt/kept"
    df --output=avail -B1 "$mnt" | tail -n 1 >"$work/free"
    for round in $(seq "$rounds"); do
        for kind in large metadata overwrite all; do
            name="$which, round $round, $kind"
            if [ "$kind" = all ]; then
                attempt "$name: filled until ENOSPC" 360 fill_all
            else
                attempt "$name: filled until ENOSPC" 360 fill "$kind"
            fi
            grep -h 'steps' "$work/output.txt" | sed 's/^/    /' || true
            attempt "$name: earlier files are intact" 60 intact
            if [ "$round" = 1 ]; then
                if again; then pass "$name: mounted anew while full"; else fail "$name: mounting anew while full"; fi
                attempt "$name: intact after that" 60 intact
            fi
            attempt "$name: deleted, and there is room again" 300 recover
        done
        state=$(head -n 1 "$mnt/.stats")
        case $state in *state=OK*) pass "$which, round $round: ${state##* }" ;; *) fail "$which, round $round: $state" ;; esac
    done
    again
    attempt "$which: intact after mounting anew" 60 intact
    stop
    attempt "$which: kvfs check" 300 check_store
    umount "$work/disk"
done < <(engines "$which")
total
