#!/usr/bin/env bash
# A small file that is overwritten for ever. Exit code 0 if log, memory and recovery keep their bounds and no overwrite is lost.
usage() {
    cat <<TEXT
usage: tests/external/hot-file.sh [--seconds N] [--engine lsm|btree]

For each engine and each of several option sets, on an ext4 of 400 MB on a loop device: for N seconds (default 60; with
KVFS_TEST_LONG set 720, which makes an hour of all) a file of 16 MiB is overwritten block by block, and a counter of 100 bytes
with fdatasync. Twelve times in between the daemon is killed with SIGKILL and mounted anew, and the file must hold
what was acknowledged. Prints and judges the largest size of the log on the disk, the bytes that a recovery reads, and
resident memory while writing and while recovering, each beside its bound:
  recovery   memtables (LSM), checkpoint_log (B-tree), and two segments: the one in use and the one made ready
  log        the same; with value_log=on also twice the file, which lies there, and two segments
  memory     1.1 of what the engine may hold (memory.limit_bytes), and 32 MiB for the program itself
Then 1,000 writes of 1 MiB at steps of 4 KiB, of which almost all is overwritten: the memory that they leave behind is judged, too,
before and after a kill. Must be run by root.

KVFS_BIN names the program under test; KVFS_WORK the folder for the image (default /var/tmp).
TEXT
}

# shellcheck source=tests/external/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
seconds=${KVFS_TEST_LONG:+720}
seconds=${seconds:-60}
read_arguments "$@"
begin hot-file
need python3=python3

cat >"$work/hot.py" <<'PYTHON'
"""hot.py write MNT STORE PID SECONDS STATE: overwrites, and prints the largest log and the largest resident memory.
hot.py check MNT STATE: whether the files hold what was acknowledged."""
import glob, hashlib, os, random, struct, sys, time

MIB = 1 << 20
BLOCKS = 16
FILLING = random.Random(1).randbytes(MIB - 8)

def acknowledged(state):
    try:
        return [int(word) for word in open(state).read().split()]
    except FileNotFoundError:
        return [0] * (BLOCKS + 1)

def resident(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10

def log_bytes(store):
    total = 0
    for name in glob.glob(f"{store}/log.*"):
        try:
            total += os.stat(name).st_blocks * 512
        except FileNotFoundError:
            pass
    return total

def write(mnt, store, pid, seconds, state):
    rounds = acknowledged(state)
    hot = os.open(f"{mnt}/hot", os.O_RDWR | os.O_CREAT)
    counter = os.open(f"{mnt}/counter", os.O_RDWR | os.O_CREAT)
    end = time.monotonic() + float(seconds)
    log = memory = done = 0
    while time.monotonic() < end:
        for block in range(BLOCKS):
            assert os.pwrite(hot, struct.pack("<Q", rounds[block] + 1) + FILLING, block * MIB) == MIB
            rounds[block] += 1
            done += 1
        for _ in range(20):
            os.pwrite(counter, struct.pack("<Q", rounds[BLOCKS] + 1) + b"c" * 92, 0)
            os.fdatasync(counter)
            rounds[BLOCKS] += 1
        log = max(log, log_bytes(store))
        memory = max(memory, resident(pid))
    with open(state, "w") as file:
        print(*rounds, file=file)
    print(done, log, memory)

def check(mnt, state):
    rounds = acknowledged(state)
    for block in range(BLOCKS):
        with open(f"{mnt}/hot", "rb") as file:
            file.seek(block * MIB)
            data = file.read(MIB)
        if struct.unpack("<Q", data[:8])[0] != rounds[block] or data[8:] != FILLING:
            sys.exit(f"block {block} is not of round {rounds[block]}")
    found = struct.unpack("<Q", open(f"{mnt}/counter", "rb").read(8))[0]
    if found != rounds[BLOCKS]:
        sys.exit(f"the counter is {found}, and was {rounds[BLOCKS]}")

globals()[sys.argv[1]](*sys.argv[2:])
PYTHON

# Of a value like 256M.
plain() { numfmt --from=iec "$1"; }

# The bounds of the mount as it is.
bounds() {
    local held
    if [ "$engine" = lsm ]; then
        held=$(figure .memory.memtable_bytes_max)
    else
        held=$(plain "$(sed -nE 's/^checkpoint_log +([0-9]+[KMGT]?).*/\1/p' "$mnt/.stats.d/config")")
    fi
    recovery_bound=$((held + 2 * (16 << 20)))
    log_bound=$recovery_bound
    case $options in *value_log=on*) log_bound=$((log_bound + 2 * (16 << 20) + 2 * (16 << 20))) ;; esac
    memory_bound=$(($(figure .memory.limit_bytes) * 11 / 10 + (32 << 20)))
}

# The largest resident memory of a process so far.
peak() { awk '/^VmHWM:/ { print $2 * 1024 }' "/proc/$(daemon_of "$mnt")/status"; }

hot() { # ENGINE OPTIONS
    loop_disk ext4 400M -m 0
    fresh "$1" "$2" "$work/disk/store"
    rm -f "$work/state"
    bounds
    local step began took
    echo "bounds $log_bound $recovery_bound $memory_bound $memory_bound" >"$work/steps"
    for step in $(seq 12); do
        timeout $((seconds / 12 + 120)) python3 "$work/hot.py" write "$mnt" "$store" "$(daemon_of "$mnt")" \
            "$(awk -v s="$seconds" 'BEGIN { print s / 12 }')" "$work/state" >"$work/step"
        read -r blocks log memory <"$work/step"
        die
        began=$(date +%s%N)
        start
        took=$((($(date +%s%N) - began) / 1000000))
        echo "$step $log $(figure .disk.by_purpose.recovery.read_bytes) $memory $(peak) $blocks $took" >>"$work/steps"
        python3 "$work/hot.py" check "$mnt" "$work/state"
    done
    stop
    check_store
}

# pwrite(1 MiB, offset i * 4096): of each only the first block stays.
slices() { # ENGINE
    loop_disk ext4 2G -m 0
    fresh "$1" memory=64M "$work/disk/store"
    bounds
    python3 - "$mnt/slices" <<'PYTHON'
import os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
for index in range(1000):
    assert os.pwrite(file, bytes([index % 251]) * (1 << 20), index * 4096) == 1 << 20
PYTHON
    (cd "$mnt" && sha256sum slices) >"$work/sums"
    local written recovered
    written=$(peak)
    die
    start
    recovered=$(peak)
    echo "resident after writing $written, after recovering $recovered; bound $memory_bound"
    intact "$work/sums"
    stop
    check_store
    [ "$written" -le "$memory_bound" ] && [ "$recovered" -le "$memory_bound" ]
}

bounded() { # COLUMN
    awk -v c="$1" 'NR == 1 { bound = $c; next } $c > most { most = $c }
        END { printf "at most %d, bound %d\n", most, bound; exit !(NR > 1 && most <= bound) }' "$work/steps"
}

while read -r which; do
    echo "== a hot file for $seconds s, engine=$which"
    option_sets=('' memory=64M)
    [ "$which" = btree ] || option_sets+=('memory=64M,value_log=on')
    for option_set in "${option_sets[@]}"; do
        name="$which, ${option_set:-default options}"
        : >"$work/steps"
        attempt "$name: overwritten and killed" $((seconds + 1500)) hot "$which" "$option_set"
        printf '    %6s %12s %12s %12s %12s %7s %9s\n' step log 'recovery' 'memory' 'recovering' MiB 'mount ms'
        awk '{ printf "    %6s %12d %12d %12d %12d %7d %9d\n", $1, $2, $3, $4, $5, $6, $7 }' "$work/steps"
        column=2
        for what in 'log on the disk' 'bytes that a recovery reads' 'memory' 'memory while recovering'; do
            attempt "$name: $what" 10 bounded "$column"
            sed 's/^/    /' "$work/output.txt"
            column=$((column + 1))
        done
        unmount_all
    done
    attempt "$which, memory=64M: memory of 1,000 writes of 1 MiB at steps of 4 KiB" 500 slices "$which"
    { grep resident "$work/output.txt" || true; } | sed 's/^/    /'
    unmount_all
done < <(engines "$which")
total
