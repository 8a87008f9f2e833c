#!/usr/bin/env bash
# The POSIX test suite pjdfstest on real mounts. Exit code 0 if exactly the cases in pjdfstest.skip fail.
usage() {
    cat <<TEXT
usage: tests/external/pjdfstest.sh [--engine ENGINE|both|all] [--options OPTIONS] [--url URL] [CASE...]

Installs pjdfstest into target/tools, makes a store for each engine, mounts it and runs every case (or those whose names
contain one of CASE) with all features that Linux has. A case that fails and is not in tests/external/pjdfstest.skip is a
failure, and so is a case that is there and passes. Must be run by root.

  --engine    one engine of the program, both of ours (default), or all that it has built in
  --options   more mount options, such as writeback_cache=on
  --url       stores are made below this URL, by an engine that has them there

KVFS_BIN names the program under test; KVFS_WORK the folder for the stores (default /var/tmp); KVFS_KEEP keeps them.
TEXT
}

# shellcheck source=tests/external/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
more=
while [ $# -gt 0 ]; do
    case "$1" in
    --engine) which=$2; shift 2 ;;
    --options) more=$2; shift 2 ;;
    --url) url=$2; shift 2 ;;
    -h | --help) usage; exit 0 ;;
    -*) usage >&2; exit 2 ;;
    *) break ;;
    esac
done

begin pjdfstest
install_tool pjdfstest 0.2.2

# The suite calls `mount -o remount,ro PATH`. mount(8) finds our helper only where it is installed; here it is called directly.
mkdir "$work/bin"
cat >"$work/bin/mount" <<WRAPPER
#!/bin/sh
[ "\${2#remount}" != "\$2" ] || exec $(command -v mount) "\$@"
exec "$kvfs" mount "$work/store" "\$3" "\$1" "\$2"
WRAPPER
chmod +x "$work/bin/mount"
export PATH=$work/bin:$PATH

# Two users that own nothing: existing ones, since the numbers are all that counts.
second=daemon
cat >"$work/pjdfstest.toml" <<TOML
[features]
posix_fallocate = {}
rename_ctime = {}
stat_st_birthtime = {}
utime_now = {}
utimensat = {}

[settings]
naptime = 0.01
allow_remount = true

[dummy_auth]
entries = [["nobody", "$(id -gn nobody)"], ["$second", "$(id -gn $second)"]]
TOML

# Name, a space, and the reason.
sed -E '/^(#|$)/d; s/ .*//' "$here/pjdfstest.skip" | sort >"$work/expected"
mkdir "$work/elsewhere"

engines "$which" >"$work/engines"
for which in $(<"$work/engines"); do
    echo "== pjdfstest, engine=$which${more:+, $more}"
    fresh "$which" "$more"
    mkdir -m 755 "$mnt/suite"
    set +e
    timeout --kill-after=10 1200 "$tool" -c "$work/pjdfstest.toml" -p "$mnt/suite" -s "$work/elsewhere" "$@" \
        >"$work/log" 2>&1
    code=$?
    set -e
    sed -E 's/\x1b\[[0-9;]*m//g' "$work/log" >"$work/plain"
    if ! grep '^Summary: ' "$work/plain"; then
        tail -n 20 "$work/plain"
        fail "the suite ended with $code before its last case"
        stop
        continue
    fi
    awk '$NF == "FAILED" && NF == 2 { print $1 }' "$work/plain" | sort -u >"$work/found"
    awk '$NF == "skipped" && NF == 2 { print "  skipped " $1 }' "$work/plain"
    # A case that leaves files open makes later ones fail that want to mount read-only (so it is on ext4, too): whatever
    # failed runs once more in a process of its own.
    for name in $(cat "$work/found"); do
        if timeout --kill-after=10 120 "$tool" -c "$work/pjdfstest.toml" -p "$mnt/suite" -s "$work/elsewhere" --exact "$name" \
            >"$work/alone" 2>&1; then
            sed -i "\\|^$name\$|d" "$work/found"
            echo "  alone   $name passes"
            passed=$((passed + 1))
        fi
    done
    while read -r name; do
        grep -A3 "^$name " "$work/plain" | sed 's/^/    | /'
        fail "$name"
    done < <(comm -13 "$work/expected" "$work/found")
    [ $# -gt 0 ] || while read -r name; do
        fail "$name passes and is in pjdfstest.skip"
    done < <(comm -23 "$work/expected" "$work/found")
    good=$(sed -nE 's/^Summary: .* ([0-9]+) passed.*/\1/p' "$work/plain")
    passed=$((passed + ${good:-0}))
    stop
    check_store || fail "kvfs check after the suite"
done
total
