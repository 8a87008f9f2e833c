#!/usr/bin/env bash
# Linux: write_bytes of /proc/PID/io counts the whole folio of a page, not the page.
#
# proc(5) says of write_bytes: "Attempt to count the number of bytes which this process caused to be sent to the storage layer." One would
# expect that a program which overwrites 8 KiB of a file and syncs it a hundred times has caused 800 KiB. Where the filesystem keeps files in
# large folios, as XFS, ext4 and its ext2 do, each time counts the folio that holds the 8 KiB: 2 MiB for a file that was
# written in large pieces, 256 times as much. What goes to the device is 8 KiB and some metadata. On an ext4 that journals data, which has no large
# folios, the count is exact.
#
# Seen with Linux 6.18: "ext4: 256, ext4 data=journal: 1". Needs root and a loop device.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root: it mounts a loop device" >&2; exit 2; }

folder=$(mktemp -d)
trap 'umount "$folder/mnt" 2>/dev/null || true; rm -rf "$folder"' EXIT
mkdir "$folder/mnt"

try() { # try OPTION: how much more is counted than was written, on an ext4 with that mount option
    truncate -s 400M "$folder/disk"
    mkfs.ext4 -q -F "$folder/disk"
    mount -o "loop,$1" "$folder/disk" "$folder/mnt"
    python3 - "$folder/mnt/file" <<'PYTHON'
import os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)

def counted():
    with open("/proc/self/io") as table:
        return next(int(line.split()[1]) for line in table if line.startswith("write_bytes:"))

os.write(file, b"1" * (16 << 20))
os.fsync(file)
before = counted()
for number in range(100):
    os.pwrite(file, b"2" * 8192, number * 37 % 1000 * 8192)
    os.fdatasync(file)
print((counted() - before) // (100 * 8192))
PYTHON
    umount "$folder/mnt"
}

seen="ext4: $(try data=ordered), ext4 data=journal: $(try data=journal)"
echo "Linux $(uname -r | cut -d. -f1,2)"
echo "$seen"
[ "$seen" = "ext4: 256, ext4 data=journal: 1" ]
