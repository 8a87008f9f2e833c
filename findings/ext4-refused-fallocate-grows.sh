#!/usr/bin/env bash
# ext4: a posix_fallocate that fails with ENOSPC leaves the file longer, with every free block of the disk in it.
#
# One would expect a call that is refused to change nothing. On ext4 it takes what there is, extent by extent, makes the file
# longer by that, and then says ENOSPC: the file is 910 MiB long although nobody wrote a byte, and 0 bytes are free for
# everyone else until somebody cuts it. tmpfs refuses the same call without a trace. So who allocates on ext4 must cut the file
# back to its old size after a failure.
#
# Seen with Linux 6.18, e2fsprogs 1.47.0: "ext4: ENOSPC, grew yes, free no", "tmpfs: ENOSPC, grew no, free yes". Needs root and a loop device.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root: it mounts a loop device" >&2; exit 2; }

folder=$(mktemp -d)
trap 'umount "$folder/mnt" 2>/dev/null || true; rm -rf "$folder"' EXIT
mkdir "$folder/tools" "$folder/mnt"
(cd "$folder/tools" && apt-get download -q e2fsprogs=1.47.0-2+b2 && dpkg -x ./*.deb .) >/dev/null 2>&1

try() { # try NAME: on the filesystem at mnt, which is smaller than 1000 MiB
    python3 - "$folder/mnt/file" "$1" <<'PYTHON'
import os, sys
path, name = sys.argv[1:]
MIB = 1 << 20
file = os.open(path, os.O_RDWR | os.O_CREAT)
try:
    os.posix_fallocate(file, 0, 1000 * MIB)
    answer = "ok"
except OSError as error:
    answer = "ENOSPC" if error.errno == 28 else str(error)
space = os.statvfs(path)
free = space.f_bavail * space.f_frsize
print(f"({name}: the file has {os.fstat(file).st_size // MIB} MiB, {free // MIB} MiB are free)", file=sys.stderr)
print(f"{name}: {answer}, grew {'yes' if os.fstat(file).st_size else 'no'}, free {'yes' if free > 100 * MIB else 'no'}")
PYTHON
}

truncate -s 960M "$folder/disk"
"$folder/tools/sbin/mkfs.ext4" -q -F -m 0 "$folder/disk"
mount -o loop "$folder/disk" "$folder/mnt"
seen=$(try ext4)
umount "$folder/mnt"
mount -t tmpfs -o size=960M none "$folder/mnt"
seen=$seen$'\n'$(try tmpfs)

echo "Linux $(uname -r | cut -d. -f1,2), e2fsprogs 1.47.0"
echo "$seen"
[ "$seen" = $'ext4: ENOSPC, grew yes, free no\ntmpfs: ENOSPC, grew no, free yes' ]
