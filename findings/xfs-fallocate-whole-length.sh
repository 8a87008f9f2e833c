#!/usr/bin/env bash
# XFS: fallocate of a range that is already allocated, plus one MiB, asks for free space for the whole range again.
#
# posix_fallocate(fd, 0, LENGTH) reads as "make sure that the first LENGTH bytes are there". One would expect that a file of 500 MiB
# can be made 501 MiB long this way while 357 MiB are free, since 1 MiB is missing. XFS says ENOSPC. Asked for the missing
# MiB alone, with offset 500 MiB, it succeeds at once. So a program that grows a file by "allocate the whole new length" meets
# a full disk when it is half full. ext4 gives the 1 MiB both ways.
#
# Seen with Linux 6.18, xfsprogs 6.1.0: "xfs whole: ENOSPC, xfs tail: ok, ext4 whole: ok". Needs root and a loop device.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root: it mounts a loop device" >&2; exit 2; }

folder=$(mktemp -d)
trap 'umount "$folder/mnt" 2>/dev/null || true; rm -rf "$folder"' EXIT
mkdir "$folder/tools" "$folder/mnt"
(cd "$folder/tools" && apt-get download -q xfsprogs=6.1.0-1 libinih1=55-1 liburcu8=0.13.2-1 && for package in *.deb; do dpkg -x "$package" .; done) >/dev/null 2>&1
libraries=$(dirname "$(find "$folder/tools" -name 'liburcu.so.*' | head -n 1)")

try() { # try NAME: on the filesystem at mnt, which has about 900 MiB
    python3 - "$folder/mnt/file" "$1" <<'PYTHON'
import os, sys
path, name = sys.argv[1:]
MIB = 1 << 20
file = os.open(path, os.O_RDWR | os.O_CREAT)

def allocate(what, offset, length):
    try:
        os.posix_fallocate(file, offset, length)
        print(f"{name} {what}: ok")
    except OSError as error:
        print(f"{name} {what}: {'ENOSPC' if error.errno == 28 else error}")

os.posix_fallocate(file, 0, 500 * MIB)
space = os.statvfs(path)
print(f"({name}: 500 MiB are allocated, {space.f_bavail * space.f_frsize // MIB} MiB are free)", file=sys.stderr)
allocate("whole", 0, 501 * MIB)
if name == "xfs":
    allocate("tail", 500 * MIB, 1 * MIB)
PYTHON
}

truncate -s 960M "$folder/disk"
LD_LIBRARY_PATH=$libraries "$folder/tools/sbin/mkfs.xfs" -q "$folder/disk"
mount -o loop "$folder/disk" "$folder/mnt"
seen=$(try xfs)
umount "$folder/mnt"
mkfs.ext4 -q -F -m 0 "$folder/disk"
mount -o loop "$folder/disk" "$folder/mnt"
seen=$seen$'\n'$(try ext4)

echo "Linux $(uname -r | cut -d. -f1,2), xfsprogs 6.1.0"
echo "$seen"
[ "$seen" = $'xfs whole: ENOSPC\nxfs tail: ok\next4 whole: ok' ]
