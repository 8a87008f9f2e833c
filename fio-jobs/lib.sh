# shellcheck shell=bash
# Sourced by the scripts beside it: arguments, the program, a directory that is removed afterwards with its mount.
#
# Before sourcing: usage(), which prints the help. After: "$here" is this directory.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# Says what is wrong, in the name of the script, and ends it.
die() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

# arguments "$@": answers --help, and refuses a first argument that is no directory.
arguments() {
    case "${1:-}" in
    -h | --help)
        usage
        exit 0
        ;;
    "" | -*)
        usage >&2
        exit 2
        ;;
    esac
    [ -d "$1" ] || die "$1 is not a directory"
}

# tools NAME...: ends the script if one is missing.
tools() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || die "$tool is not installed (apt-get install $*)"
    done
}

# scratch_mount PARENT: sets kvfs to the program, home to a new directory in PARENT, mount to a mount point in it. All of it goes
# when the script ends.
scratch_mount() {
    kvfs=${KVFS:-$here/../target/release/kvfs}
    [ -x "$kvfs" ] || die "$kvfs is not there: cargo build --release, or set KVFS"
    home=$(mktemp -d "$1/$(basename "$0" .sh)-XXXXXX")
    mount=$home/mnt
    mkdir "$mount"
    trap remove_scratch EXIT
    trap 'exit 130' INT TERM
}

remove_scratch() {
    if mountpoint -q "$mount"; then
        "$kvfs" umount "$mount" || true
    fi
    rm -rf --one-file-system "$home"
}
