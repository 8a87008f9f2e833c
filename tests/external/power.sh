#!/usr/bin/env bash
# Power failures on a real filesystem. Exit code 0 if nothing that was made durable is missing or torn.
usage() {
    cat <<TEXT
usage: tests/external/power.sh [--rounds N] [--engine ENGINE|both|all]

For each engine: an XFS on a loop device holds the store. N rounds (default 50): two writers do durable steps and record each
one that was acknowledged; after 0.2 to 1 s some pages of the store's files are written back in no order, the XFS is shut down without a flush of its log (xfs_io -x -c shutdown), the
daemon is killed, the XFS is mounted anew, the store is checked and mounted, and every record is compared. Then eight stores that were
just made by mkfs or a first mount lose power at once, and must be there and clean. Must be run by root; installs xfsprogs.

  --engine  one engine of the program, both of ours (default), or all that it has built in

KVFS_BIN names the program under test; KVFS_WORK the folder for the image (default /var/tmp).
TEXT
}

# shellcheck source=tests/external/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
rounds=50
read_arguments "$@"
begin power
need mkfs.xfs=xfsprogs xfs_io=xfsprogs
writers=$(mount_tests)
export CI=true KVFS_TEST_ROUNDS=$rounds KVFS_TEST_POWER=$work/disk KVFS_TEST_ENGINE
cases="$rounds rounds each"
engines "$which" >"$work/engines"
for which in $(<"$work/engines"); do
    loop_disk xfs 2G
    KVFS_TEST_ENGINE=$which
    attempt "$which, $rounds rounds" $((60 + rounds * 12)) \
        "$writers" --include-ignored --exact "$(mount_test kill::power_loss_under_writers "$which")"
    attempt "$which, stores that were just made" 300 \
        "$writers" --include-ignored --exact "$(mount_test kill::power_loss_of_a_new_store "$which")"
    umount "$work/disk"
done
total
