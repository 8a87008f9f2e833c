#!/usr/bin/env bash
# RocksDB: db_bench with several benchmarks and --trace_file leaves the trace of the last one alone.
#
# The help says that the option traces the workload to a file, and the benchmarks of one call are run one after the other on the same database. So a trace
# of fillrandom,readrandom should have the writes and then the reads. Each benchmark opens the file anew, and what was in it is gone; nothing is said. A
# replay of the trace begins with reads of a database that its own writes never filled. One call a benchmark, each with a file, keeps all.
#
# Seen with rocksdb-tools 7.8.3: "together: 0 writes, 300 reads; alone: 2000 writes, 0 reads".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
(
    cd "$folder"
    apt-get download -q rocksdb-tools=7.8.3-2 librocksdb7.8=7.8.3-2
    for package in *.deb; do dpkg -x "$package" .; done
) >/dev/null 2>&1
libraries=$(find "$folder/usr/lib" -name 'librocksdb.so.7.8' -printf '%h')

traced() { # traced NAME BENCHMARKS: what is in the trace of one call
    LD_LIBRARY_PATH=$libraries "$folder/usr/bin/db_bench" --db="$folder/$1" --benchmarks="$2" --num=2000 --reads=300 \
        --trace_file="$folder/$1.trace" >/dev/null 2>&1
    python3 - "$folder/$1.trace" <<'PYTHON'
import struct, sys
data, at, kinds = open(sys.argv[1], "rb").read(), 0, []
while at < len(data):
    _, kind, length = struct.unpack_from("<QBI", data, at)
    kinds.append(kind)
    at += 13 + length
print(f"{kinds.count(3)} writes, {kinds.count(4)} reads", end="")
PYTHON
}

seen="together: $(traced both fillrandom,readrandom); alone: $(traced one fillrandom)"
echo "$seen"
[ "$seen" = "together: 0 writes, 300 reads; alone: 2000 writes, 0 reads" ]
