#!/bin/sh
# Mounts a store with one of the presets below; makes the store if it is missing.
#
#   mount-scripts/mount.sh PRESET DIR MNT [OPTIONS]       as in: mount.sh lsm /var/lib/kv.db /mnt/kv sync=always
set -eu

usage() {
    echo "usage: $0 PRESET DIR MNT [OPTION,…]" >&2
    echo "presets:" >&2
    sed -n 's/^    \([a-z0-9-]*\)) options=\(.*\) ;;$/  \1\t\2/p' "$0" >&2
    exit 1
}
[ $# -ge 3 ] || usage

case $1 in
    lsm) options=engine=lsm ;;
    lsm-busy) options=engine=lsm,memtable=4M,table=4M,level_base=16M ;;
    lsm-nofilter) options=engine=lsm,bloom_bits=0 ;;
    btree) options=engine=btree ;;
    btree-4k) options=engine=btree,page_size=4K ;;
    btree-64k) options=engine=btree,page_size=64K ;;
    mem) options=engine=mem ;;
    *) usage ;;
esac

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
kvfs=${KVFS:-$(command -v kvfs || echo "$here/../target/release/kvfs")}
mkdir -p "$3"
exec "$kvfs" mount "$2" "$3" -v -o "$options${4:+,$4}"
