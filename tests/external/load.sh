#!/usr/bin/env bash
# Sixty-four threads of mixed calls. Exit code 0 if memory stays flat, every wait over a second has a name and everyone comes back.
usage() {
    cat <<TEXT
usage: tests/external/load.sh [--seconds N] [--engine lsm|btree]

For each engine: 64 threads create, write, sync, read and compare, cut, rename, link, list and remove files of their own for N
seconds (default 600), and one more reads past the page cache. Prints the daemon's resident memory each minute, what calls over
a second waited for (a stall of the engine by its name, or the disk below), the latencies that the daemon counted, and the
reader's p99, also while writers were stalled. Fails if memory grows, a byte is wrong, a call over a second has no cause,
or a thread does not come back. The program is tests/mount/load.rs. Needs /dev/fuse.

KVFS_BIN names the program under test; by default the release build, which is made first.
TEXT
}

# shellcheck source=tests/external/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
seconds=600
read_arguments "$@"
begin load
program=$(mount_tests)
# The rounds tell the harness how long it may take.
export CI=true KVFS_TEST_SECONDS=$seconds KVFS_TEST_ROUNDS=$((seconds / 10 + 30))
cases="$seconds seconds each"
for which in $(engines "$which"); do
    echo "== 64 threads, engine=$which"
    attempt "$which" $((seconds + 600)) "$program" --exact "load::mixed_load::$which" --nocapture
    grep -E ' s: |calls of|reader:|  [a-z_]+ +[0-9]+ p50' "$work/output.txt" | sed 's/^/    /' || true
done
total
