#!/usr/bin/env bash
# Shows kvfs in about two minutes: build, mount, a fio job, an rsync, .stats, unmount, check. Leaves nothing behind.
set -euo pipefail

usage() {
    cat <<TEXT
usage: mount-scripts/quickstart.sh [lsm|btree]

Builds kvfs, makes a store with the engine (default lsm) in a new directory on disk, mounts it, runs a fio job and an
rsync of a real tree on it, prints .stats, unmounts, checks the store and removes it. On Debian and Ubuntu it installs,
through apt and only if missing: fuse3, fio, rsync, jq, gcc.

environment:  JOB   the job of fio-jobs/ (randwrite)      SIZE  bytes of its file (256m)
              BASE  where the store is made (/var/tmp; should be a disk, not a tmpfs)
TEXT
}

engine=${1:-lsm}
case "$engine" in
lsm | btree) ;;
-h | --help)
    usage
    exit 0
    ;;
*)
    usage >&2
    exit 2
    ;;
esac

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$repository"
# shellcheck source=mount-scripts/packages.sh
. mount-scripts/packages.sh

say() { printf '\n== %s\n' "$*"; }

say "tools"
need_build
need_fuse
need fio=fio rsync=rsync jq=jq
if [ ! -c /dev/fuse ]; then
    echo "there is no /dev/fuse: a container needs --device /dev/fuse --cap-add SYS_ADMIN" >&2
    exit 1
fi

say "build"
cargo build --release
kvfs=$(cargo metadata --format-version 1 --no-deps | jq -r .target_directory)/release/kvfs

work=$(mktemp -d "${BASE:-/var/tmp}/kvfs-quickstart-XXXXXX")
store=$work/store
mnt=$work/mnt
mkdir "$mnt"

leave() {
    code=$?
    trap - EXIT
    if mountpoint -q "$mnt"; then
        "$kvfs" umount "$mnt" || fusermount3 -uz "$mnt" || true
    fi
    # Never remove a tree with a mount inside.
    if mountpoint -q "$mnt"; then
        echo "still mounted, nothing is removed: $mnt" >&2
        code=1
    else
        rm -rf "$work"
    fi
    exit "$code"
}
trap leave EXIT
trap 'exit 130' INT TERM

say "kvfs mount $store $mnt -o engine=$engine"
"$kvfs" mount "$store" "$mnt" -o "engine=$engine"
findmnt "$mnt" || true

job=${JOB:-randwrite}
say "fio-jobs/run.sh $mnt $job"
fio-jobs/run.sh "$mnt" "$job"

# A real tree: the headers of this machine if there are any, else the sources of the crates that were just built.
tree=/usr/include
if [ "$(find "$tree" -type f 2>/dev/null | head -200 | wc -l)" -lt 200 ]; then
    tree=${CARGO_HOME:-$HOME/.cargo}/registry/src
fi
say "rsync -a $tree/ $mnt/tree/"
rsync -a --stats "$tree/" "$mnt/tree/" | grep -E '^(Number of regular files transferred|Total transferred file size)'
diff -r --no-dereference "$tree" "$mnt/tree"
echo "diff -r: no difference"

say "$mnt/.stats"
"$kvfs" ctl "$mnt" sync
cat "$mnt/.stats"

say "kvfs umount $mnt"
"$kvfs" umount "$mnt"

say "kvfs check $store"
"$kvfs" check "$store"
du -sh "$store"
say "done: engine=$engine"
