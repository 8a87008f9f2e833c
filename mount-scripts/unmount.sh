#!/bin/sh
# Unmounts a kvfs and waits until its store is closed; with -l also if it is in use.
#
#   mount-scripts/unmount.sh MNT [-l]
set -eu
[ $# -ge 1 ] || { echo "usage: $0 MNT [-l]" >&2; exit 1; }

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
kvfs=${KVFS:-$(command -v kvfs || echo "$here/../target/release/kvfs")}
exec "$kvfs" umount "$@"
