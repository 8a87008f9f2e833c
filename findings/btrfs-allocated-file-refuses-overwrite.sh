#!/usr/bin/env bash
# btrfs: a file that was allocated, and written once, cannot be overwritten on a full disk.
#
# The manual of fallocate promises that no write to the allocated range fails for lack of space, so a program that allocates its file, as
# databases do with their logs, expects to write there whatever others do. On btrfs that holds for the first write of each block. The next
# one goes elsewhere, needs room, and says ENOSPC when the disk is full, although the file does not grow. With the attribute C on the file's
# directory (no copy-on-write) it holds, as it does on ext4.
#
# Seen with Linux 6.18, btrfs-progs 6.2: "btrfs first: ok, again: ENOSPC; btrfs with C first: ok, again: ok; ext4 first: ok, again: ok".
# Needs root and a loop device.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "needs root: it mounts a loop device" >&2; exit 2; }

folder=$(mktemp -d)
trap 'umount "$folder/mnt" 2>/dev/null || true; rm -rf "$folder"' EXIT
mkdir "$folder/tools" "$folder/mnt"
(cd "$folder/tools" && apt-get download -q btrfs-progs=6.2-1+deb12u2 && dpkg -x btrfs-progs_*.deb .) >/dev/null 2>&1

try() { # try NAME: in the folder mnt/files
    python3 - "$folder/mnt/files" "$1" <<'PYTHON'
import errno, os, sys
folder, name = sys.argv[1:]
MIB = 1 << 20
file = os.open(folder + "/allocated", os.O_RDWR | os.O_CREAT)
os.posix_fallocate(file, 0, 200 * MIB)

def write(byte):
    try:
        for offset in range(0, 200 * MIB, MIB):
            os.pwrite(file, byte * MIB, offset)
            os.fsync(file)
        return "ok"
    except OSError as error:
        return errno.errorcode[error.errno]

first = write(b"a")
other = os.open(folder + "/other", os.O_RDWR | os.O_CREAT)
for size in (MIB, 4096):
    try:
        while True:
            os.write(other, b"b" * size)
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
os.fsync(other)
print(f"{name} first: {first}, again: {write(b'c')}")
PYTHON
}

seen=
for how in btrfs 'btrfs with C' ext4; do
    rm -f "$folder/disk"
    truncate -s 1G "$folder/disk"
    case $how in
    ext4) mkfs.ext4 -q -m 0 "$folder/disk" ;;
    *) "$folder/tools/bin/mkfs.btrfs" -q "$folder/disk" >/dev/null 2>&1 || "$folder/tools/sbin/mkfs.btrfs" -q "$folder/disk" >/dev/null 2>&1 ;;
    esac
    mount -o loop "$folder/disk" "$folder/mnt"
    mkdir "$folder/mnt/files"
    [ "$how" != 'btrfs with C' ] || chattr +C "$folder/mnt/files"
    seen=$seen$(try "$how")$'\n'
    umount "$folder/mnt"
done

echo "Linux $(uname -r | cut -d. -f1,2), btrfs-progs 6.2"
printf %s "$seen"
[ "$seen" = $'btrfs first: ok, again: ENOSPC\nbtrfs with C first: ok, again: ok\next4 first: ok, again: ok\n' ]
