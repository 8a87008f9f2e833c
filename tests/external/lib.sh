# Sourced by the scripts of this folder: a store of its own in a work directory, mounted by the release binary, and taken away
# again however the script ends.
# shellcheck shell=bash
#
#   read_arguments ARG...  `--NAME VALUE` sets $NAME (--engine: $which, both if not given), if the script's `usage` has it;
#                       --help prints that
#   begin NAME          makes $work with $work/mnt; at the end everything in it is unmounted and removed
#   engines [WHICH]     the engines to run on, one a line: lsm and btree (both), every one that the program has built in (all), or
#                       the one given
#   mount_test NAME ENGINE  the name of a test of tests/mount.rs on an engine; one of others is named to it by KVFS_TEST_ENGINE
#   fresh ENGINE [OPTS] a new store in $work/store, or with --url at a place of its own below that URL, mounted at $mnt
#   start [OPTS]        mounts the store; `stop` unmounts it and waits for the daemon's end; `again` does both
#   die                 kill -9 of the daemon, and the dead mount is taken away
#   check_store         kvfs check; failing says what it found
#   stop_full           the same where a full disk below may leave work over, which the program then says
#   intact SUMS         the files below the mount point that SUMS (of sha256sum) names are as they were
#   fill_mount FOLDER SUMS [BYTES]  files of BYTES (3 MB) in FOLDER of the mount until ENOSPC; SUMS gets each that was written
#   fill_below          takes the last free byte of the disk below; `ease_below` gives all of them back
#   pass NAME, fail NAME  counts a case; `total` prints the sums and is the exit code

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
# shellcheck source=mount-scripts/packages.sh
. "$top/mount-scripts/packages.sh"

export LC_ALL=C
passed=0
failed=0
cases=

# shellcheck disable=SC2034 # the scripts that read this file use them
which=both only='' url=''
stores=0

# read_arguments ARGUMENT...: sets a variable for each option that usage tells of; `--engine` sets `which`.
read_arguments() {
    local name help
    help=$(usage)
    while [ $# -gt 0 ]; do
        name=${1#--}
        case "$1" in
        -h | --help) echo "$help"; exit 0 ;;
        esac
        # Only what the script tells of, and not without its value.
        if [ $# -lt 2 ] || [ "$name" = "$1" ] || [[ ! $name =~ ^[a-z]+$ ]] || [[ $help != *"[--$name "* ]]; then
            echo "$help" >&2
            exit 2
        fi
        [ "$name" != engine ] || name=which
        printf -v "$name" %s "$2"
        shift 2
    done
}

require_root() {
    [ "$(id -u)" = 0 ] || { echo "$0: must be run by root" >&2; exit 2; }
    need_fuse
    [ -e /dev/fuse ] || { echo "$0: there is no /dev/fuse" >&2; exit 2; }
}

# The program under test: $KVFS_BIN, else the release build, which is made first.
find_binary() {
    if [ -z "${KVFS_BIN:-}" ]; then
        need_build
        (cd "$top" && cargo build --release --quiet)
        KVFS_BIN=${CARGO_TARGET_DIR:-$top/target}/release/kvfs
    fi
    # The scripts go elsewhere.
    KVFS_BIN=$(realpath "$KVFS_BIN")
    kvfs=$KVFS_BIN
    export KVFS_BIN
    [ -x "$kvfs" ] || { echo "$0: no program at $kvfs" >&2; exit 2; }
}

begin() {
    require_root
    find_binary
    need jq=jq
    base=${KVFS_WORK:-/var/tmp}
    work=$(mktemp -d "$base/kvfs-$1.XXXXXX")
    # Other users enter the mount, not the store.
    chmod 755 "$work"
    mnt=$work/mnt
    mkdir "$mnt"
    # What this machine keeps of stores at URLs goes with the rest.
    export KVFS_STATE=${KVFS_STATE:-$work/state}
    engine=lsm
    options=
    trap cleanup EXIT
    trap 'exit 130' INT TERM HUP
}

# What a script has to end itself; it may be redefined.
at_end() { :; }

# Takes away what is mounted on the work directory, dead or alive: our mounts before what their stores lie on. What cannot be
# unmounted is detached.
unmount_all() {
    local point pid image
    awk -v work="$work/" 'index($5, work) == 1 { print / fuse\.kvfs /, NR, $5 }' /proc/self/mountinfo | sort -k1,1nr -k2,2nr |
        while read -r _ _ point; do
            pid=$(daemon_of "$point")
            # Waits until it is gone, but for a minute at most.
            timeout 60 "$kvfs" umount "$point" >/dev/null 2>&1 || umount "$point" 2>/dev/null || umount -l "$point" 2>/dev/null
            [ -z "$pid" ] || wait_gone "$pid" >/dev/null || kill -9 "$pid" 2>/dev/null
        done
    for image in "$work"/*.img; do
        losetup -j "$image" 2>/dev/null | cut -d: -f1 | xargs -r losetup -d
    done
}

cleanup() {
    local code=$? child
    trap - EXIT
    # timeout(1) sends its signal twice; nothing may cut the cleaning short.
    trap : INT TERM HUP
    set +e
    cd /
    # What still runs would keep the mount in use.
    for child in $(jobs -p) ${guard:-}; do kill_tree "$child"; done
    at_end
    unmount_all
    if [ -n "${KVFS_KEEP:-}" ]; then
        echo "kept: $work" >&2
    else
        rm -rf --one-file-system "$work"
    fi
    exit "$code"
}

engines() {
    local built_in
    # The program knows; one that keeps nothing has nothing to be asked for.
    built_in=$("$kvfs" engines --json | jq -r '.[] | select(.keeps) | .name')
    case "${1:-both}" in
    both) printf '%s\n' lsm btree ;;
    all) echo "$built_in" ;;
    # Options of an engine may follow its name, as in btree,pages=cow.
    *) grep -q -x -e "${1%%,*}" <<<"$built_in" && echo "$1" || { echo "engine $1 is none of $kvfs:" $built_in >&2; exit 2; } ;;
    esac
}

mount_test() {
    case "$2" in
    lsm | btree) echo "$1::$2" ;;
    *) echo "$1::other" ;;
    esac
}

daemon_of() {
    # Not the first "pid" in it: the report names processes that write, too.
    timeout 5 jq -r .process.pid "$1/.stats.d/json" 2>/dev/null || true
}

# Waits up to a minute for the end of a process. One that has ended and that nobody has collected yet is gone, too.
wait_gone() {
    local tries
    [ -n "$1" ] || { echo "no process to wait for"; return 1; }
    for tries in $(seq 600); do
        case $(sed -E 's/.*\) (.).*/\1/' "/proc/$1/stat" 2>/dev/null) in '' | Z | X) return 0 ;; esac
        sleep 0.1
    done
    echo "process $1 still runs after $tries tries"
    return 1
}

start() {
    local all="engine=$engine${options:+,$options}${1:+,$1}"
    timeout 120 "$kvfs" mount "$store" "$mnt" -o "$all" >/dev/null
}

fresh() {
    engine=$1
    options=${2:-}
    if [ -n "$url" ]; then
        stores=$((stores + 1))
        store=$url/$stores
    else
        store=${3:-$work/store}
        # Names of files only: a store is one flat directory.
        rm -rf "$store"
    fi
    start
}

stop() {
    local daemon
    daemon=$(daemon_of "$mnt")
    timeout 120 "$kvfs" umount "$mnt" >/dev/null
    wait_gone "$daemon"
}

again() {
    stop
    start "$@"
}

die() {
    local daemon
    daemon=$(daemon_of "$mnt")
    kill -9 "$daemon"
    wait_gone "$daemon"
    umount -l "$mnt"
}

check_store() {
    timeout 600 "$kvfs" check "$store" >"$work/check.txt" 2>&1 || { cat "$work/check.txt"; return 1; }
}

pass() {
    passed=$((passed + 1))
    printf '  ok      %s\n' "$1"
}

fail() {
    failed=$((failed + 1))
    printf '  FAILED  %s\n' "$1"
}

# attempt NAME SECONDS COMMAND...: runs it with a limit; its output is shown and kept only if it fails. A shell function runs in a
# subshell of its own.
attempt() {
    local name=$1 limit=$2 code=0 began=$SECONDS
    shift 2
    # Not in a condition: bash would switch `set -e` off inside the function.
    set +e
    (
        set -e
        trap - EXIT
        "$@"
    ) >"$work/output.txt" 2>&1 &
    local child=$!
    (sleep "$limit"; echo "$name: not done after $limit s" >>"$work/output.txt"; kill_tree "$child") >/dev/null 2>&1 &
    guard=$!
    # Else bash reports its end.
    disown "$guard"
    wait "$child"
    code=$?
    kill_tree "$guard"
    set -e
    if [ "$code" = 0 ]; then
        pass "$name ($((SECONDS - began)) s)"
    else
        { grep -A3 'panicked' "$work/output.txt" || true; tail -n 30 "$work/output.txt"; } | cut -c1-300 | sed 's/^/    | /'
        keep_output "$name"
        fail "$name (exit code $code)"
    fi
}

# keep_output NAME: the whole output of what failed, and the report of the mount if it still answers, where they outlive this script:
# in $KVFS_TEST_ARTIFACTS, or beside the work directory.
keep_output() {
    local place=${KVFS_TEST_ARTIFACTS:-$base}
    mkdir -p "$place"
    place=$place/failed-$(basename "$0" .sh)-${1//[^[:alnum:]]/-}-$$.txt
    { cat "$work/output.txt" && printf '\n--- .stats\n' && timeout 5 cat "$mnt/.stats"; } >"$place" 2>&1 || true
    echo "    | all of it: $place"
}

# Ends a process that this script started, and what that started.
kill_tree() {
    local child children
    children=$(ps -o pid= --ppid "$1" 2>/dev/null)
    # The parent first: it would go on when its child ends.
    kill -9 "$1" 2>/dev/null || true
    for child in $children; do kill_tree "$child"; done
}

total() {
    printf '%s: %s%d passed, %d failed\n' "$(basename "$0" .sh)" "${cases:+$cases, }" "$passed" "$failed"
    # Nothing that was asked is no answer.
    [ "$failed" = 0 ] && [ "$passed" -gt 0 ]
}

# loop_disk TYPE SIZE [MKFS_OPTION]...: a new filesystem on a loop device at $work/disk.
loop_disk() {
    local type=$1 size=$2
    shift 2
    rm -f "$work/disk.img"
    truncate -s "$size" "$work/disk.img"
    mkdir -p "$work/disk"
    "mkfs.$type" -q "$@" "$work/disk.img"
    mount -o loop "$work/disk.img" "$work/disk"
}

# Bytes that are free on the disk below, to root.
free_below() {
    stat -f -c '%f * %S' "$work/disk" | { IFS= read -r product; echo $((product)); }
}

# Others take every byte that is free on the disk below. With a number, about that many stay free.
fill_below() {
    python3 - "$work/disk/ballast" "${1:-0}" <<'PYTHON'
import errno, os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
offset = os.fstat(file).st_size
step = 64 << 20
# Large steps as long as there is room for them: what is free changes while a store is at work.
while step >= 4096:
    below = os.fstatvfs(file)
    if below.f_bfree * below.f_frsize < step + int(sys.argv[2]):
        step //= 4
        continue
    try:
        os.posix_fallocate(file, offset, step)
        offset += step
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        step //= 4
PYTHON
}

ease_below() { rm -f "$work/disk/ballast"; }

# Work that a full disk leaves over makes the exit code 32, with the reason.
stop_full() {
    local daemon code=0
    daemon=$(daemon_of "$mnt")
    timeout 120 "$kvfs" umount "$mnt" >"$work/umount.txt" 2>&1 || code=$?
    cat "$work/umount.txt"
    if [ "$code" != 0 ]; then
        echo "umount: exit code $code"
        [ "$code" = 32 ] && [ -s "$work/umount.txt" ]
    fi
    wait_gone "$daemon"
    if mountpoint -q "$mnt"; then
        echo "the mount is still there"
        return 1
    fi
}

intact() { (cd "$mnt" && sha256sum --quiet -c "$1"); }

# Fails for any other error than ENOSPC, and if nothing fails.
fill_mount() {
    timeout 300 python3 - "$mnt" "$@" <<'PYTHON'
import errno, hashlib, os, sys
mnt, folder, sums = sys.argv[1:4]
size = int(sys.argv[4]) if len(sys.argv) > 4 else 3_000_000
os.makedirs(f"{mnt}/{folder}", exist_ok=True)
number = written = 0
with open(sums, "a") as record:
    while number < 100_000:
        data = os.urandom(size)
        try:
            with open(f"{mnt}/{folder}/{number}", "wb", buffering=0) as file:
                done = 0
                while done < size:
                    done += file.write(data[done:])
        except OSError as error:
            if error.errno != errno.ENOSPC:
                sys.exit(f"after {number} files: {error}")
            print(f"{number} files, {written} bytes, then {error.strerror}")
            sys.exit(0)
        record.write(f"{hashlib.sha256(data).hexdigest()}  {folder}/{number}\n")
        number += 1
        written += size
sys.exit(f"no ENOSPC after {number} files")
PYTHON
}

# removed FOLDER SUMS EVERY: deletes every EVERYth file of FOLDER, and strikes them from SUMS; each must work at once.
removed() {
    local index=0 name
    while read -r _ name; do
        index=$((index + 1))
        [ $((index % $3)) != 0 ] || rm "$mnt/$name"
    done <"$2"
    awk -v every="$3" 'NR % every != 0' "$2" >"$2.left"
    mv "$2.left" "$2"
}

# room FOLDER BYTES: within a minute a file of BYTES can be written and synced there.
room() {
    local tries
    for tries in $(seq 60); do
        if timeout 60 dd if=/dev/urandom of="$mnt/$1/room" bs=1M iflag=count_bytes count="$2" conv=fsync status=none 2>"$work/refusal"; then
            rm "$mnt/$1/room"
            return 0
        fi
        # What was written of it would take the room of the next try.
        rm -f "$mnt/$1/room"
        sleep 1
    done
    echo "no room for $2 bytes after $tries tries: $(cat "$work/refusal"); $(head -n 1 "$mnt/.stats")"
    return 1
}

# The counter at a path of the JSON report.
figure() { jq -r "$1" "$mnt/.stats.d/json"; }

# Bytes that the files of the store with names like the pattern occupy.
occupied() { find "$store" -name "$1" -printf '%b\n' | awk '{ sum += $1 * 512 } END { print sum + 0 }'; }

# The program of the mount tests (tests/mount.rs), built if need be.
mount_tests() {
    need_build >&2
    (cd "$top" && timeout 1800 cargo test --no-run --test mount --message-format=json 2>/dev/null) |
        sed -nE 's/.*"name":"mount".*"executable":"([^"]+)".*/\1/p' | tail -n 1
}

# install_tool CRATE VERSION: a program from crates.io in target/tools; `$tool` is its path.
install_tool() {
    local root=${CARGO_TARGET_DIR:-$top/target}/tools
    tool=$root/bin/$1
    if ! "$tool" --version 2>/dev/null | grep -qF "$2"; then
        need_build
        cargo install "$1" --version "$2" --locked --root "$root" --target-dir "$root/build" --quiet
    fi
}
