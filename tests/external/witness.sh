#!/usr/bin/env bash
# A directory passed through by `kvfs witness`: POSIX cases, random operations, and its counts beside the kernel's own.
usage() {
    cat <<TEXT
usage: tests/external/witness.sh [--only "CASE…"] [--seconds N] [--operations N]

  posix     every case of pjdfstest on the mount; those that fail on the bare directory as well are left out
  fsx       random operations on files, each read compared with what must be there; mounted anew between
  postgres  pgbench on PostgreSQL whose data lie on the mount: bytes written beside the kernel's count of the witness, within 1 %; checksums
            of all pages afterwards
  rocksdb   RocksDB under kvfs, whose store lies on the mount: the same. Needs a program with it: KVFS_ENGINES names it (default
            engines/target/release/kvfs-engines); without one the case is left out and said so
  speed     fio on the mount and on the bare directory; prints the ratios, fails for nothing

The directories lie on an ext4 that journals data: there alone the kernel counts pages. Elsewhere it counts the whole folio of a page, up to 2 MiB
(findings/proc-io-counts-whole-folios.sh). Must be run by root.

  --only        only these cases, all if not given
  --seconds     of pgbench and of each fio (default 20)
  --operations  of fsx, all together (default 200000)

KVFS_BIN names the program under test; KVFS_WORK the folder for the directories (default /var/tmp); KVFS_KEEP keeps them.
TEXT
}

# shellcheck source=tests/external/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
seconds=20
operations=200000
read_arguments "$@"
[ -n "$only" ] || only="posix fsx postgres rocksdb speed"
begin witness
need mkfs.ext4=e2fsprogs

truncate -s 6G "$work/disk.img"
mkfs.ext4 -q "$work/disk.img"
mkdir "$work/disk"
mount -o loop,data=journal "$work/disk.img" "$work/disk"

# pass_through NAME [OPTIONS]: a directory of its own, passed through to $mnt.
pass_through() {
    dir=$work/disk/$1
    mkdir -p "$dir"
    timeout 60 "$kvfs" witness "$dir" "$mnt" ${2:+-o "$2"} >/dev/null
}

end() {
    local daemon
    daemon=$(daemon_of "$mnt")
    timeout 120 "$kvfs" umount "$mnt" >/dev/null
    wait_gone "$daemon"
}

# What the kernel has counted of the witness.
kernel_bytes() { awk '$1 == "write_bytes:" { print $2 }' "/proc/$(daemon_of "$mnt")/io"; }

# agree COMMAND...: the bytes that the witness counts while the command runs are, within 1 %, those that the kernel counts of it.
agree() {
    local before after counted
    sync
    before=$(kernel_bytes)
    "$kvfs" ctl "$mnt" mark agree
    "$@"
    sync
    after=$(kernel_bytes)
    counted=$(jq '.total.write_bytes + .total.copied_bytes' "$mnt/.stats.d/since/agree.json")
    cat "$mnt/.stats.d/since/agree"
    awk -v kernel=$((after - before)) -v counted="$counted" 'BEGIN {
        share = kernel ? (counted - kernel) / kernel * 100 : 100
        printf "witness %.0f bytes, kernel %.0f: %+.2f %%\n", counted, kernel, share
        exit !(share > -1 && share < 1)
    }' | tee "$work/agreement"
    return "${PIPESTATUS[0]}"
}

posix_case() {
    install_tool pjdfstest 0.2.2
    cat >"$work/pjdfstest.toml" <<TOML
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.01
allow_remount = false
[dummy_auth]
entries = [["nobody", "$(id -gn nobody)"], ["daemon", "$(id -gn daemon)"]]
TOML
    mkdir -p "$work/elsewhere"
    # Names of the cases that fail at a place.
    failing() {
        mkdir -p "$1" && chmod 755 "$1"
        timeout --kill-after=10 900 "$tool" -c "$work/pjdfstest.toml" -p "$1" -s "$work/elsewhere" >"$work/log" 2>&1 || true
        sed -E 's/\x1b\[[0-9;]*m//g' "$work/log" >"$work/plain"
        grep '^Summary: ' "$work/plain"
        awk '$NF == "FAILED" && NF == 2 { print $1 }' "$work/plain" | sort -u >"$2"
    }
    failing "$work/disk/bare" "$work/bare"
    pass_through posix
    failing "$mnt/suite" "$work/found"
    end
    if [ -n "$(comm -13 "$work/bare" "$work/found")" ]; then
        comm -13 "$work/bare" "$work/found" | while read -r name; do grep -A3 "^$name " "$work/plain"; done
        return 1
    fi
}

fsx_case() {
    install_tool fsx 0.3.2
    local seed
    printf '%s\n' 'flen = 1048576' '[opsize]' 'max = 131072' 'min = 1' '[weights]' 'close_open = 1' 'read = 10' 'write = 10' 'mapread = 10' \
        'mapwrite = 10' 'invalidate = 1' 'truncate = 3' 'fsync = 0.2' 'fdatasync = 0.2' 'posix_fallocate = 2' 'punch_hole = 4' 'sendfile = 2' \
        'posix_fadvise = 1' 'copy_file_range = 4' >"$work/fsx.toml"
    pass_through fsx
    for seed in 1 2 3 4; do
        timeout 600 "$tool" -q -f "$work/fsx.toml" -N $((operations / 4)) -S "$seed" -P "$work" "$mnt/file-$seed"
        sha256sum <"$mnt/file-$seed" >"$work/before"
        end
        sha256sum <"$work/disk/fsx/file-$seed" | cmp - "$work/before"
        pass_through fsx
        sha256sum <"$mnt/file-$seed" | cmp - "$work/before"
    done
    end
}

postgres_case() {
    [ -n "$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null)" ] || need pg_ctl=postgresql
    bin=$(find /usr/lib/postgresql -maxdepth 2 -name bin | sort -V | tail -n 1)
    mkdir -p "$work/socket" "$work/disk/postgres"
    chown postgres: "$work/socket" "$work/disk/postgres"
    chmod 700 "$work/disk/postgres"
    pass_through postgres engine=postgresql
    pg() { (cd / && setpriv --reuid=postgres --regid=postgres --init-groups env HOME="$work/socket" PGHOST="$work/socket" "$@"); }
    trap 'pg "$bin/pg_ctl" -D "$mnt" -m immediate stop >/dev/null 2>&1 || true' EXIT
    pg "$bin/initdb" -D "$mnt" --data-checksums >/dev/null
    pg "$bin/pg_ctl" -D "$mnt" -l "$work/socket/log" -w -t 60 start \
        -o "-c listen_addresses= -c unix_socket_directories=$work/socket -c max_wal_size=256MB" >/dev/null
    pg "$bin/pgbench" -q -i -s 10 postgres
    bench() {
        pg "$bin/pgbench" -c 4 -T "$seconds" postgres
        pg "$bin/psql" -qAt -d postgres -c checkpoint
    }
    agree bench
    # The log is where a database of this size writes, and syncs.
    jq -e '.by_class.log.write_bytes > 0 and .by_class.data.write_bytes > 0 and .by_class.log.syncs > 100' "$mnt/.stats.d/json"
    pg "$bin/pg_ctl" -D "$mnt" -w stop >/dev/null
    end
    pg "$bin/pg_checksums" -D "$work/disk/postgres" | grep -x 'Bad checksums:  0'
}

rocksdb_case() {
    local program=${KVFS_ENGINES:-$top/engines/target/release/kvfs-engines}
    need fio=fio
    pass_through rocksdb engine=rocksdb
    mkdir -p "$work/upper"
    "$program" mount "$mnt/store" "$work/upper" -o engine=rocksdb,sync=interval:1s >/dev/null
    load() {
        fio --name=overwrite --directory="$work/upper" --rw=randwrite --bs=64k --size=256m --io_size=2g --ioengine=psync --fallocate=none --end_fsync=1
        "$program" ctl "$work/upper" flush wait
        "$program" umount "$work/upper"
    }
    agree load
    jq -e '.by_class.log.write_bytes > 0 and .by_class.table.write_bytes > 0' "$mnt/.stats.d/json"
    end
    timeout 600 "$program" check "$work/disk/rocksdb/store"
}

# rate PLACE NAME FIO-OPTION...: MB a second, or requests a second of syncs.
rate() {
    local place=$1 name=$2
    shift 2
    fio --name="$name" --directory="$place" --size=512m --runtime="$seconds" --time_based --ioengine=psync --fallocate=none --output-format=json "$@" |
        jq '.jobs[0] | [.read.bw_bytes + .write.bw_bytes, .read.iops + .write.iops] | map(floor) | @tsv' -r
    rm -f "$place/$name".*
}

speed_case() {
    need fio=fio
    local name options
    # Where files usually lie: nothing is journalled twice.
    mkdir "$work/plain"
    timeout 60 "$kvfs" witness "$work/plain" "$mnt" >/dev/null
    printf '%-28s %16s %16s %8s\n' fio 'bare B/s' 'witness B/s' ratio
    while read -r name options; do
        # shellcheck disable=SC2086 # they are several words
        rate "$work/plain" "$name" $options >"$work/bare.rate"
        # shellcheck disable=SC2086
        rate "$mnt" "$name" $options >"$work/mount.rate"
        paste "$work/bare.rate" "$work/mount.rate" |
            awk -v name="$name" '{ printf "%-28s %16.0f %16.0f %8.2f\n", name, $1, $3, $3 / $1 }'
    done <<'JOBS'
write-1m --rw=write --bs=1m
write-8k-4-jobs --rw=randwrite --bs=8k --numjobs=4 --group_reporting
write-8k-fdatasync --rw=randwrite --bs=8k --fdatasync=1
read-1m-direct --rw=read --bs=1m --direct=1
read-8k-direct-4-jobs --rw=randread --bs=8k --direct=1 --numjobs=4 --group_reporting
read-8k-cached --rw=randread --bs=8k --pre_read=1
JOBS
    end
}

for case in $only; do
    if [ "$case" = rocksdb ] && [ ! -x "${KVFS_ENGINES:-$top/engines/target/release/kvfs-engines}" ]; then
        echo "  left out rocksdb: no program with it; cargo build --release --features rocksdb in engines/, or KVFS_ENGINES"
        continue
    fi
    attempt "$case" 1800 "${case}_case"
    # What a program prints of its agreement, and of speed, is worth to be seen also where all is well.
    case $case in
    postgres | rocksdb) sed 's/^/          /' "$work/agreement" ;;
    speed) grep -E '^(fio|write|read)' "$work/output.txt" | sed 's/^/          /' ;;
    esac
    ! mountpoint -q "$mnt" || umount -l "$mnt"
done
total
