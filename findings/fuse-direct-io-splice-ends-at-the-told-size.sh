#!/usr/bin/env bash
# FUSE: a file that is opened with direct_io is read to its end by read(2), and only to the size that was told before by splice(2) and sendfile(2).
#
# With FOPEN_DIRECT_IO each read goes to the server, whatever size the file was said to have: that is how servers give out files that are
# made up when they are read, like those of /proc. One would expect that splice and sendfile, which are reads as well, end where read does.
# They go through the page cache, direct_io or not, and end at the size of the last lookup or getattr. So a text that has grown between the
# lookup and the open loses its end, but only for programs that splice.
#
# Seen with Linux 6.18, mfusepy 3.1.1 and libfuse3: "read 3000, sendfile 1000, splice 1000" of a file that says it has 1000 bytes and gives 3000.
# Needs root or a fusermount3, and /dev/fuse.
set -euo pipefail
[ -e /dev/fuse ] || { echo "needs /dev/fuse" >&2; exit 2; }

folder=$(mktemp -d)
server=
cleanup() {
    fusermount3 -u "$folder/mnt" 2>/dev/null || true
    [ -z "$server" ] || wait "$server" || true
    rm -rf "$folder"
}
trap cleanup EXIT
mkdir "$folder/mnt"
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install mfusepy==3.1.1

cat >"$folder/server.py" <<'PYTHON'
import stat, sys
import mfusepy

class Grown(mfusepy.Operations):
    use_ns = True

    def getattr(self, path, fh=None):
        if path == "/":
            return dict(st_mode=stat.S_IFDIR | 0o755, st_nlink=2)
        if path == "/text":
            return dict(st_mode=stat.S_IFREG | 0o444, st_nlink=1, st_size=1000)
        raise mfusepy.FuseOSError(2)

    def open(self, path, info):
        info.direct_io = True
        return 0

    def read(self, path, size, offset, handle):
        return (b"x" * 3000)[offset:offset + size]

mfusepy.FUSE(Grown(), sys.argv[1], foreground=True, raw_fi=True, attr_timeout=0, entry_timeout=0)
PYTHON
"$folder/venv/bin/python" "$folder/server.py" "$folder/mnt" 2>/dev/null &
server=$!
for _ in $(seq 100); do
    [ ! -e "$folder/mnt/text" ] || break
    sleep 0.1
done

seen=$(python3 - "$folder" <<'PYTHON'
import os, sys
folder = sys.argv[1]

def count(how):
    file = os.open(f"{folder}/mnt/text", os.O_RDONLY)
    target = os.open(f"{folder}/target", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    reader, writer = os.pipe()
    one = {
        "read": lambda: len(os.read(file, 1 << 16)),
        "sendfile": lambda: os.sendfile(target, file, None, 1 << 16),
        "splice": lambda: os.splice(file, writer, 1 << 16),
    }[how]
    total = 0
    while count := one():
        total += count
    for descriptor in (file, target, reader, writer):
        os.close(descriptor)
    return total

print(", ".join(f"{how} {count(how)}" for how in ("read", "sendfile", "splice")))
PYTHON
)
echo "Linux $(uname -r | cut -d. -f1,2), mfusepy 3.1.1: $seen"
[ "$seen" = "read 3000, sendfile 1000, splice 1000" ]
