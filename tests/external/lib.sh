# Sourced by the scripts of this folder: a store of its own in a work directory, mounted by the release binary, and taken away
# again however the script ends.
# shellcheck shell=bash
#
#   begin NAME          makes $work with $work/mnt; at the end everything in it is unmounted and removed
#   engines [WHICH]     the engines to run on, one a line: lsm and btree, or the one given
#   fresh ENGINE [OPTS] a new store in $work/store, mounted at $mnt
#   start [OPTS]        mounts the store; `stop` unmounts it and waits for the daemon's end; `again` does both
#   die                 kill -9 of the daemon, and the dead mount is taken away
#   check_store         kvfs check; failing says what it found
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
    engine=lsm
    options=
    trap cleanup EXIT
    trap 'exit 130' INT TERM HUP
}

# What a script has to end itself; it may be redefined.
at_end() { :; }

cleanup() {
    local code=$? point pid child
    trap - EXIT
    # timeout(1) sends its signal twice; nothing may cut the cleaning short.
    trap : INT TERM HUP
    set +e
    cd /
    # What still runs would keep the mount in use.
    for child in $(jobs -p) ${guard:-}; do kill_tree "$child"; done
    at_end
    # What is mounted on the work directory, dead or alive: our mounts before what their stores lie on.
    awk -v work="$work/" 'index($5, work) == 1 { print / fuse\.kvfs /, $5 }' /proc/self/mountinfo | sort -rn |
        while read -r _ point; do
            pid=$(daemon_of "$point")
            timeout 60 "$kvfs" umount "$point" >/dev/null 2>&1 || umount -l "$point" 2>/dev/null
            [ -z "$pid" ] || wait_gone "$pid" || kill -9 "$pid" 2>/dev/null
        done
    losetup -j "$work/disk.img" 2>/dev/null | cut -d: -f1 | xargs -r losetup -d
    if [ -n "${KVFS_KEEP:-}" ]; then
        echo "kept: $work" >&2
    else
        rm -rf --one-file-system "$work"
    fi
    exit "$code"
}

engines() {
    case "${1:-both}" in
    both) printf '%s\n' lsm btree ;;
    lsm | btree) echo "$1" ;;
    *) echo "unknown engine: $1" >&2; exit 2 ;;
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
    store=${3:-$work/store}
    # Names of files only: a store is one flat directory.
    rm -rf "$store"
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

# attempt NAME SECONDS COMMAND...: runs it with a limit; its output is shown only if it fails. A shell function runs in a
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
        fail "$name (exit code $code)"
    fi
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
    [ "$failed" = 0 ]
}

# loop_disk TYPE SIZE: a new filesystem on a loop device at $work/disk.
loop_disk() {
    rm -f "$work/disk.img"
    truncate -s "$2" "$work/disk.img"
    mkdir -p "$work/disk"
    "mkfs.$1" -q "$work/disk.img"
    mount -o loop "$work/disk.img" "$work/disk"
}

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
