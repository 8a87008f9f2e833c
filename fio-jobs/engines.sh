#!/usr/bin/env bash
# Every engine and policy under the same real programs, and the page that compares them: docs/engines.md.
set -euo pipefail

usage() {
    cat <<TEXT
usage: fio-jobs/engines.sh run DIR [CONTENDER...]
       fio-jobs/engines.sh page DIR
       fio-jobs/engines.sh hybrid DIR [CONTENDER...]

run   mounts each contender on a new store, on an ext4 of its own on a loop device in DIR, and has the same programs work on it: fio
      (fill, random overwrites, small synced appends, random reads of a cold store), rsync of a source tree and its second run,
      git clone and gc, SQLite in both journal modes, rm -rf. Each step is counted from a settled store to a settled store. Then the
      daemon is killed while writers work, a few times, and what the engine promises is looked for. Writes DIR/results/*.json, one a
      contender and run; what is there already is not run again, so the command may be interrupted and given again.
page  makes docs/engines.md, its plots and docs/engines.json of DIR/results.
hybrid  has hot data beside cold on each contender, likewise: zipfian and uniform blocks of one file, half reads, half overwrites, past
      the kernel's cache; other blocks that become the hot ones; SQLite with a hot table beside a cold one; a git work tree in use
      beside an archive. Prints tables, the first of which says what the hybrid is to reach and what it does, and writes them to
      DIR/hybrid.md, every figure to DIR/hybrid.json, and DIR/hybrid/*.json. About 80 seconds a contender.

CONTENDER is ENGINE[:VARIANT][:OPTION=VALUE]..., as in lsm:tiered, rocksdb:universal, rocksdb:blob=on; or 'plain', the ext4
without any engine: the upper rail (not for hybrid). Default: all that the program has; for hybrid lsm, lsm:tiered, btree, btree:cow,
btree:cow-extent, hybrid:hot=A_SIXTEENTH_OF_SIZE, hybrid:tiered likewise, and rocksdb, as far as it has them. Needs root and /dev/fuse; nothing else should run meanwhile.

environment:
  KVFS    the program   (engines/target/release/kvfs-engines of this tree, else target/release/kvfs)
  SIZE    megabytes of data, four times the memory of an engine   (512; hybrid: 256)
  RUNS    runs of each contender, the first of which has the kills   (3; hybrid: 1)
  ROUNDS  kills of each contender; 0 for none   (5)
  STEP    hybrid: seconds of each step that is timed   (6)
  MOVE    hybrid: seconds for which the rate is watched once other blocks are the hot ones, if it does not come back before   (20)
  TREE    directory that rsync and git copy   (the sources of this tree's dependencies, by cargo vendor)
TEXT
}

case "${1:-}" in
-h | --help)
    usage
    exit 0
    ;;
run | page | hybrid) ;;
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
if [ "$1" != page ]; then
    [ "$(id -u)" = 0 ] || { echo "engines.sh: needs root, for loop devices and control groups" >&2; exit 2; }
    need_fuse
    need fio=fio rsync=rsync git=git mkfs.ext4=e2fsprogs sqlite3=sqlite3
    exec python3 "$here/engines/$1.py" "${@:2}"
fi
# Checks the results against their schema and draws; in an environment of its own, so that the system's Python stays as it is.
environment=$2/python
if [ ! -x "$environment/bin/python" ]; then
    need python3-venv=python3-venv || true
    python3 -m venv "$environment"
    "$environment/bin/pip" --quiet --disable-pip-version-check install 'matplotlib==3.10.*' 'jsonschema==4.*'
fi
exec "$environment/bin/python" "$here/engines/page.py" "${@:2}"
