#!/usr/bin/env bash
# kill -9 of the daemon at random moments. Exit code 0 if nothing that was acknowledged is missing or torn.
usage() {
    cat <<TEXT
usage: tests/external/kill.sh [--rounds N] [--engine ENGINE|both|all]

For each engine N rounds (default 200): two writers do steps and record each one that was acknowledged (write and fsync,
rename after fsync, O_SYNC appends, fsync of the directory, unlinks; without the kernel's writeback cache plain writes,
too), the daemon is killed with SIGKILL after 0.2 to 0.8 s, the store is checked, mounted anew, and every record is
compared. An engine that does not promise that a batch survives the end of the process is held to what a sync acknowledged. The
writers are tests/mount/kill.rs. Needs /dev/fuse.

  --engine  one engine of the program, both of ours (default), or all that it has built in

KVFS_BIN names the program under test (engines/target/release/kvfs-engines has engines of others); by default the release build,
which is made first.
TEXT
}

# shellcheck source=tests/external/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
rounds=200
read_arguments "$@"
begin kill
writers=$(mount_tests)
export CI=true KVFS_TEST_LONG=1 KVFS_TEST_ROUNDS=$rounds KVFS_TEST_ENGINE
cases="$rounds rounds each"
engines "$which" >"$work/engines"
for which in $(<"$work/engines"); do
    KVFS_TEST_ENGINE=$which
    attempt "$which, $rounds rounds" $((60 + rounds * 8)) \
        "$writers" --include-ignored --exact "$(mount_test kill::kill_under_writers "$which")"
done
total
