#!/usr/bin/env bash
# A directory of a million files: made, listed, removed. Exit code 0 if nothing is missing and memory stays within its bound.
usage() {
    cat <<TEXT
usage: tests/external/million.sh [--entries N] [--memory MIB] [--engine lsm|btree]

For each engine: N empty files (default 1,000,000) in one directory, a listing with and without attributes, after mounting
anew too, then rm -rf. Prints seconds and the daemon's largest resident memory after each step, and fails if that passes
MIB (default 1024) or a name is missing. df -i must show the files, and that they are gone. Must be run by root.

KVFS_BIN names the program under test; KVFS_WORK the folder for the stores (default /var/tmp); KVFS_KEEP keeps them.
TEXT
}

# shellcheck source=tests/external/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
entries=1000000
memory=1024
read_arguments "$@"
begin million
need python3=python3

# step NAME COMMAND...: prints its seconds and the daemon's largest memory.
step() {
    local name=$1 began=$SECONDS peak
    shift
    attempt "$which $name" 1800 "$@"
    peak=$(awk '/^VmHWM/ { print int($2 / 1024) }' "/proc/$(daemon_of "$mnt")/status")
    printf '          %s s, daemon %s MiB at most\n' $((SECONDS - began)) "$peak"
    [ "$peak" -le "$memory" ] || fail "$which $name: the daemon used $peak MiB"
}

create() {
    mkdir "$mnt/many"
    python3 - "$mnt/many" "$entries" <<'PYTHON'
import os, sys
folder = os.open(sys.argv[1], os.O_RDONLY)
for number in range(int(sys.argv[2])):
    os.close(os.open(f"file-{number:07}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, dir_fd=folder))
PYTHON
}

# Each name once.
list() { [ "$(find "$mnt/many" -mindepth 1 -printf '%f\n' | sort -u | wc -l)" = "$entries" ]; }
list_long() { [ "$(find "$mnt/many" -type f -size 0 -printf '%f %i\n' | sort -u | wc -l)" = "$entries" ]; }
inodes() { df --output=iused "$mnt" | tail -n 1; }

while read -r which; do
    echo "== a directory of $entries, engine=$which"
    fresh "$which"
    before=$(inodes)
    step "create" create
    [ "$(inodes)" = $((before + entries + 1)) ] && pass "$which df -i counts them" || fail "$which df -i: $(inodes)"
    step "list" list
    again
    step "list anew" list
    step "list with attributes" list_long
    step "rm -rf" rm -rf "$mnt/many"
    # The kernel lets go of the last inode after rmdir(2) has returned.
    for _ in $(seq 20); do [ "$(inodes)" != "$before" ] || break; sleep 0.5; done
    [ "$(inodes)" = "$before" ] && pass "$which df -i is as before" || fail "$which df -i afterwards: $(inodes), before $before"
    stop
    check_store || fail "$which: kvfs check"
done < <(engines "$which")
total
