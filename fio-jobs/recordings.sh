#!/usr/bin/env bash
# Recordings of real programs on generated data, and what recording costs: docs/replay.md and docs/recording.md have their tables.
set -euo pipefail

usage() {
    cat <<TEXT
usage: fio-jobs/recordings.sh make DIR [WORK...]
       fio-jobs/recordings.sh replay DIR
       fio-jobs/recordings.sh compare DIR [WORK...]
       fio-jobs/recordings.sh overhead DIR

make      has real programs work on a new store of engine=lsm each, with record=DIR/WORK.rec, and shows what is in the recordings. WORK is zipf (fio,
          overwrites and reads of 4 KiB blocks), sqlite (transactions in both journal modes), git (commits, gc, clone), rsync (a tree, then
          a changed tree), cargo (a build without dependencies), pgbench. All data is generated; all of it is there again with the same seed.
replay    does the recordings that are in DIR again, on the engine that was recorded and on others, and prints tables: some minutes.
compare   asks 'kvfs advise' and 'kvfs replay' about the same designs for each recording in DIR, and prints by how much they differ and whether they put the
          designs in the same order.
overhead  has fio write and read 4 KiB blocks, and make small files, on one mount, in turns with and without a recording, with one thread and
          with four; prints the ratios of the rates and of the processor time a call. Nothing else should run meanwhile.

make and overhead need root and /dev/fuse.

environment:
  KVFS     the program   (target/release/kvfs of this tree)
  OPTIONS  of the mounts of make   (memory=8M, so that merges happen)
  DESIGNS  of compare, separated by blanks   (leveled, tiered and eager LSM-trees; B-trees by page size, cow and doublewrite)
  PACE     of the replays of compare   (skip-idle)
  ENGINE   of the mount of overhead   (mem: nothing else costs anything there, and no merge is in the way of one turn and not of the other)
  SECONDS_EACH  of a turn of overhead   (1)
  ROUNDS   turns with and turns without   (20)
TEXT
}

case "${1:-}" in
-h | --help)
    usage
    exit 0
    ;;
make | replay | compare | overhead) ;;
*)
    usage >&2
    exit 2
    ;;
esac
[ -n "${2:-}" ] || { usage >&2; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=mount-scripts/packages.sh
. "$here/../mount-scripts/packages.sh"
need python3=python3
if [ "$1" = compare ] || [ "$1" = replay ]; then
    exec python3 "$here/recordings/$1.py" "${@:2}"
fi
[ "$(id -u)" = 0 ] || { echo "recordings.sh: needs root" >&2; exit 2; }
need_fuse
need fio=fio
if [ "$1" = make ]; then
    need rsync=rsync git=git
fi
exec python3 "$here/recordings/$1.py" "${@:2}"
