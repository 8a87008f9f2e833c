#!/usr/bin/env bash
# LMDB: a commit that finds no room fails with EIO where the disk took a part of a write.
#
# mdb_txn_commit(3) lists both: ENOSPC, "no more disk space", and EIO, "a low-level I/O error occurred while writing". A full disk is the first, so
# a program that treats an I/O error as damage, and stops, is not prepared for it. LMDB writes up to 64 neighbouring pages with one call. Where there is room for
# some of them, the system writes those and says how many; LMDB takes any number but the whole for EIO and does not try the rest, which would be
# told ENOSPC. The transaction changes nothing in either case, and the next one succeeds once there is room.
#
# Seen with lmdb 3.0.0 (wheels with LMDB 0.9.36 in them): "room for 64 KiB: EIO; with room: committed".
# Needs root: it mounts a filesystem in memory.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root: it mounts a filesystem in memory" >&2; exit 2; }

folder=$(mktemp -d)
trap 'umount "$folder/disk" 2>/dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install lmdb==3.0.0
mkdir "$folder/disk"
mount -t tmpfs -o size=4m tmpfs "$folder/disk"

seen=$("$folder/venv/bin/python" - "$folder/disk" <<'PYTHON'
import errno
import os
import sys

import lmdb

disk = sys.argv[1]
environment = lmdb.open(disk, map_size=64 << 20)


def commit(size):
    """What a commit of one value of `size` bytes says."""
    try:
        with environment.begin(write=True) as transaction:
            transaction.put(b"key", os.urandom(size))
        return "committed"
    except lmdb.Error as error:
        return "EIO" if os.strerror(errno.EIO) in str(error) else "ENOSPC" if "No space" in str(error) else str(error)


def fill(left):
    space = os.statvfs(disk)
    with open(f"{disk}/others", "ab") as file:
        file.write(bytes(max(0, space.f_bavail * space.f_bsize - left)))


assert commit(10) == "committed"
fill(left=64 << 10)
full = commit(1 << 20)
os.remove(f"{disk}/others")
print(f"room for 64 KiB: {full}; with room: {commit(1 << 20)}")
PYTHON
)

echo "lmdb 3.0.0: $seen"
[ "$seen" = "room for 64 KiB: EIO; with room: committed" ]
