#!/usr/bin/env bash
# XFS: a file that was written from front to back and synced takes about twice its size for as long as it is open.
#
# XFS reserves room behind a file that grows, as much as it has, so that it stays in one piece. One would expect the room to go with
# fdatasync, or to be no loss, since the space is only set aside. But it is gone from statfs, it stays while a descriptor is open, and who keeps many
# such files open (tables of a database, say) sees a disk of which half is used as a full one. Closing the file gives it
# back, and so does ftruncate to the size that the file has already. On ext4 nothing is set aside.
#
# Seen with Linux 6.18, xfsprogs 6.1.0: "xfs: synced 2x, truncated to its own size 1x", "ext4: synced 1x, truncated to its own size 1x". Needs root
# and a loop device.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root: it mounts a loop device" >&2; exit 2; }

folder=$(mktemp -d)
trap 'umount "$folder/mnt" 2>/dev/null || true; rm -rf "$folder"' EXIT
mkdir "$folder/tools" "$folder/mnt"
(cd "$folder/tools" && apt-get download -q xfsprogs=6.1.0-1 libinih1=55-1 liburcu8=0.13.2-1 && for package in *.deb; do dpkg -x "$package" .; done) >/dev/null 2>&1
libraries=$(dirname "$(find "$folder/tools" -name 'liburcu.so.*' | head -n 1)")

try() { # try NAME: on the filesystem at mnt
    python3 - "$folder/mnt" "$1" <<'PYTHON'
import os, sys
folder, name = sys.argv[1:]
MIB = 1 << 20
FILES, SIZE = 4, 64
block = os.urandom(MIB)

def free():
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize // MIB

before, files = free(), []
for number in range(FILES):
    file = os.open(f"{folder}/file-{number}", os.O_RDWR | os.O_CREAT)
    files.append(file)
    for at in range(SIZE):
        os.pwrite(file, block, at * MIB)
    os.fdatasync(file)
synced = before - free()
for file in files:
    os.ftruncate(file, SIZE * MIB)
truncated = before - free()
print(f"({name}: {FILES * SIZE} MiB of files took {synced} MiB, then {truncated})", file=sys.stderr)
times = lambda taken: f"{round(taken / (FILES * SIZE))}x"
print(f"{name}: synced {times(synced)}, truncated to its own size {times(truncated)}")
PYTHON
}

truncate -s 2G "$folder/disk"
LD_LIBRARY_PATH=$libraries "$folder/tools/sbin/mkfs.xfs" -q "$folder/disk"
mount -o loop "$folder/disk" "$folder/mnt"
seen=$(try xfs)
umount "$folder/mnt"
mkfs.ext4 -q -F "$folder/disk"
mount -o loop "$folder/disk" "$folder/mnt"
seen=$seen$'\n'$(try ext4)

echo "Linux $(uname -r | cut -d. -f1,2), xfsprogs 6.1.0"
echo "$seen"
[ "$seen" = $'xfs: synced 2x, truncated to its own size 1x\next4: synced 1x, truncated to its own size 1x' ]
