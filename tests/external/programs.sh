#!/usr/bin/env bash
# Real programs on real mounts. Exit code 0 if each kept its data.
usage() {
    cat <<TEXT
usage: tests/external/programs.sh [--engine ENGINE|both|all] [CASE...]

Runs each CASE (default: all) on a new store of each engine, and checks the store at the end:

  git         clone, gc, fsck, checkout of every commit
  sqlite      transactions in delete, WAL and mmap modes, integrity_check, also after mounting anew
  postgres    initdb, pgbench, kill -9 of the postmaster under load, recovery, sums that must agree
  build       a cargo build and a C build with make -j
  rsync       rsync -aHAX there and back: links, attributes, access control lists
  tar         tar --xattrs --acls there and back
  acl         default lists, masks, and what another user may do
  limits      names, links, sizes, times, O_APPEND and O_EXCL from several processes, locks
  stress      stress-ng --class filesystem for 60 s
  user        an unprivileged user through fusermount3

Installs what is missing through apt. Must be run by root.

  --engine    one engine of the program, both of ours (default), or all that it has built in

KVFS_BIN names the program under test; KVFS_WORK the folder for the stores (default /var/tmp); KVFS_KEEP keeps them.
TEXT
}

# shellcheck source=tests/external/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
while [ $# -gt 0 ]; do
    case "$1" in
    --engine) which=$2; shift 2 ;;
    -h | --help) usage; exit 0 ;;
    -*) usage >&2; exit 2 ;;
    *) break ;;
    esac
done
[ $# -gt 0 ] || set -- git sqlite postgres build rsync tar acl limits stress user

begin programs
export GIT_CONFIG_GLOBAL=$work/gitconfig

as_user() { setpriv --reuid=nobody --regid="$(id -gn nobody)" --clear-groups "$@"; }
refused() { if "$@" >/dev/null 2>&1; then echo "was not refused: $*"; return 1; fi; }

git_case() {
    need git=git
    git config --global user.name kvfs
    git config --global user.email kvfs@localhost
    git config --global safe.directory '*'
    mkdir "$work/source"
    cd "$work/source"
    git init -q -b main .
    local commit folder file
    for commit in 1 2 3 4; do
        for folder in a b/c d/e/f; do
            mkdir -p "$folder/$commit"
            for file in $(seq 100); do seq $((commit * file)) $((commit * file + file * 20)) >"$folder/$commit/$file.txt"; done
        done
        [ "$commit" = 1 ] || git mv "a/1/$commit.txt" "a/1/moved-$commit.txt"
        git add -A
        git commit -qm "commit $commit"
    done
    git clone -q --no-hardlinks "$work/source" "$mnt/clone"
    cd "$mnt/clone"
    git fsck --full --strict
    for commit in $(git rev-list HEAD); do
        git checkout -q "$commit"
        [ -z "$(git status --porcelain)" ]
    done
    git checkout -q main
    git gc -q --aggressive --prune=now
    git fsck --full --strict
    cd /
    again
    cd "$mnt/clone"
    git fsck --full --strict
    [ -z "$(git status --porcelain)" ]
    diff -r --no-dereference --exclude=.git "$work/source" .
}

sqlite_case() {
    need sqlite3=sqlite3
    local mode
    for mode in delete wal mmap; do
        {
            [ "$mode" = mmap ] && echo "PRAGMA mmap_size=268435456;" || echo "PRAGMA journal_mode=$mode;"
            echo "CREATE TABLE t (id INTEGER PRIMARY KEY, word TEXT, size INTEGER); CREATE INDEX words ON t (word);"
            for i in $(seq 1000); do
                echo "BEGIN; INSERT INTO t VALUES ($i, hex(randomblob($i % 200)), 0);"
                echo "UPDATE t SET size = length(word) WHERE id = $i; COMMIT;"
            done
            echo "DELETE FROM t WHERE id % 3 = 0; VACUUM;"
        } | sqlite3 -bail "$mnt/$mode.db"
    done
    proof() {
        for mode in delete wal mmap; do
            [ "$(sqlite3 "$mnt/$mode.db" 'PRAGMA integrity_check')" = ok ]
            [ "$(sqlite3 "$mnt/$mode.db" 'SELECT count(*), min(id), max(id) FROM t WHERE size = length(word)')" = '667|1|1000' ]
        done
    }
    proof
    again
    proof
}

postgres_case() {
    [ -n "$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null)" ] || need pg_ctl=postgresql
    bin=$(find /usr/lib/postgresql -maxdepth 2 -name bin | sort -V | tail -n 1)
    mkdir "$mnt/pg"
    mkdir -p "$work/socket"
    chown postgres: "$mnt/pg" "$work/socket"
    cd "$mnt/pg"
    pg() { setpriv --reuid=postgres --regid=postgres --init-groups env HOME="$mnt/pg" PGHOST="$work/socket" "$@"; }
    up() {
        # After a crash the postmaster may have to wait until what it left is gone.
        for _ in 1 2 3; do
            pg "$bin/pg_ctl" -D "$mnt/pg/data" -l "$mnt/pg/log" -w -t 60 start \
                -o "-c listen_addresses= -c unix_socket_directories=$work/socket -c max_wal_size=64MB" && return
            sleep 1
        done
        tail -n 20 "$mnt/pg/log"
        return 1
    }
    # However the case ends, no server stays behind.
    trap 'pg "$bin/pg_ctl" -D "$mnt/pg/data" -m immediate stop >/dev/null 2>&1 || true' EXIT
    ask() { pg "$bin/psql" -qAt -d postgres -c "$1"; }
    pg "$bin/initdb" -D "$mnt/pg/data" --data-checksums >/dev/null
    up
    pg "$bin/pgbench" -q -i -s 5 postgres
    pg "$bin/pgbench" -c 4 -j 2 -T 10 postgres
    local round head
    for round in 1 2 3; do
        # Not with a VACUUM before, which empties the history.
        pg "$bin/pgbench" -n -c 4 -j 2 -T 30 postgres >/dev/null 2>&1 &
        sleep 3
        head=$(head -n 1 "$mnt/pg/data/postmaster.pid")
        kill -9 "$head"
        wait $! || true
        # Its children end by themselves.
        timeout 30 tail --pid="$head" -f /dev/null
        sleep 2
        up
        # Every transaction adds the same amount to an account, a teller, a branch and the history.
        [ "$(ask 'SELECT count(DISTINCT s) FROM (SELECT sum(abalance) s FROM pgbench_accounts UNION ALL
            SELECT sum(tbalance) FROM pgbench_tellers UNION ALL SELECT sum(bbalance) FROM pgbench_branches UNION ALL
            SELECT sum(delta) FROM pgbench_history) sums')" = 1 ] || { echo "round $round: the sums differ"; return 1; }
        [ "$(ask 'SELECT count(*) > 0 FROM pgbench_history')" = t ]
    done
    pg "$bin/pg_ctl" -D "$mnt/pg/data" -w -m fast stop
    pg "$bin/pg_checksums" --check -D "$mnt/pg/data"
    cd /
    again
    up
    ask 'SELECT count(*) FROM pgbench_accounts'
    pg "$bin/pg_ctl" -D "$mnt/pg/data" -w -m fast stop
}

build_case() {
    need_build
    need make=make
    cd "$mnt"
    cargo init -q --name small small
    local i
    for i in $(seq 20); do printf 'pub fn f%d(x: u64) -> u64 { x.wrapping_mul(%d) }\n' "$i" "$i" >"small/src/m$i.rs"; done
    {
        for i in $(seq 20); do echo "mod m$i;"; done
        echo 'fn main() { let mut x = 1;'
        for i in $(seq 20); do echo "x = m$i::f$i(x);"; done
        echo 'println!("{x}"); }'
    } >small/src/main.rs
    (cd small && CARGO_TARGET_DIR=$mnt/small/target cargo build -q --offline)
    [ "$(small/target/debug/small)" = 2432902008176640000 ]
    touch small/src/main.rs
    (cd small && CARGO_TARGET_DIR=$mnt/small/target cargo build -q --offline --release)
    [ "$(small/target/release/small)" = 2432902008176640000 ]
    mkdir c
    cd c
    for i in $(seq 100); do printf '#include <stdio.h>\nint f%d(int x) { return x + %d; }\n' "$i" "$i" >"f$i.c"; done
    {
        for i in $(seq 100); do echo "int f$i(int);"; done
        echo '#include <stdio.h>'
        echo 'int main(void) { int x = 0;'
        for i in $(seq 100); do echo "x = f$i(x);"; done
        echo 'printf("%d\n", x); return 0; }'
    } >main.c
    printf 'all: sum\nsum: $(patsubst %%.c,%%.o,$(wildcard *.c))\n\tcc -o $@ $^\n%%.o: %%.c\n\tcc -O1 -c -o $@ $<\n' >Makefile
    make -s -j4
    [ "$(./sum)" = 5050 ]
    # Nothing is newer than what was made of it.
    make -q
    cd /
    again
    cd "$mnt/c"
    make -q
    [ "$(./sum)" = 5050 ]
}

# A tree with everything that a copy can lose.
tree() {
    need setfattr=attr setfacl=acl
    mkdir -p "$1/deep/er" "$1/empty"
    cd "$1"
    local i
    for i in $(seq 200); do head -c $((i * 131)) /dev/urandom >"file.$i"; done
    truncate -s 3000000 deep/sparse
    printf end >>deep/sparse
    ln file.1 deep/hardlink
    ln -s ../file.2 deep/symlink
    ln -s nowhere deep/dangling
    mkfifo deep/er/fifo
    mknod deep/er/null c 1 3
    chmod 2750 deep/er
    chmod 4711 file.3
    chmod 1777 empty
    chown 1234:5678 file.5 deep
    setfattr -n user.origin -v test file.4
    setfattr -n trusted.kvfs -v root deep
    setfacl -m u:1000:rw,g:1001:r,m::rw file.6
    setfacl -d -m u:1000:rwx,o::- deep/er
    # rsync takes times within one second for equal.
    find . -depth -exec touch -h -d '2024-05-06 07:08:09.012345678' {} +
    touch -d '1999-12-31 23:59:59.123456789' file.7 deep
    touch -h -d '1931-02-03 04:05:06.789' deep/symlink
    touch -d '1931-02-03 04:05:06.789' file.8
}

# All that can be seen of a tree.
portrait() {
    (
        cd "$1"
        find . -printf '%p %y %m %U %G %n %s %T@ %l\n' | sed 's/^\(\S* d \S* \S* \S* \S*\) [0-9]*/\1/' | sort
        find . -type f | sort | xargs -d '\n' sha256sum
        find . ! -type l | sort | xargs -d '\n' getfacl -pn
        find . ! -type l | sort | xargs -d '\n' getfattr -d -m '^(user|trusted)'
    )
}

rsync_case() {
    need rsync=rsync
    (tree "$work/tree")
    rsync -aHAXS --numeric-ids "$work/tree/" "$mnt/tree/"
    portrait "$work/tree" >"$work/p1"
    again
    portrait "$mnt/tree" | diff "$work/p1" -
    [ -z "$(rsync -aHAXSi --numeric-ids --checksum --delete "$work/tree/" "$mnt/tree/")" ]
    rsync -aHAXS --numeric-ids "$mnt/tree/" "$work/back/"
    portrait "$work/back" | diff "$work/p1" -
    rm -rf "$work/tree" "$work/back"
}

tar_case() {
    need tar=tar
    (tree "$mnt/tree")
    portrait "$mnt/tree" >"$work/p1"
    tar -C "$mnt" --xattrs --xattrs-include='*' --acls --numeric-owner -S -cf "$mnt/all.tar" tree
    mkdir "$mnt/out" "$work/out"
    tar -C "$mnt/out" --xattrs --xattrs-include='*' --acls --numeric-owner -xpf "$mnt/all.tar"
    portrait "$mnt/out/tree" | diff "$work/p1" -
    tar -C "$work/out" --xattrs --xattrs-include='*' --acls --numeric-owner -xpf "$mnt/all.tar"
    portrait "$work/out/tree" | diff "$work/p1" -
    rm -rf "$work/out"
}

acl_case() {
    need setfacl=acl
    local user
    user=$(id -u nobody)
    cd "$mnt"
    mkdir -m 700 closed
    echo secret >closed/file
    refused as_user cat closed/file
    setfacl -m "u:$user:x" closed
    refused as_user ls closed
    setfacl -m "u:$user:rx" closed
    as_user ls closed
    chmod 600 closed/file
    refused as_user cat closed/file
    setfacl -m "u:$user:rw" closed/file
    [ "$(stat -c %a closed/file)" = 660 ]
    as_user cat closed/file
    # The mask limits whoever is named, and is the group's bits of the mode.
    chmod g-w closed/file
    refused as_user tee closed/file </dev/null
    getfacl -cn closed/file | grep -q "user:$user:rw-.*#effective:r--"
    setfacl -m m::rw closed/file
    [ "$(stat -c %a closed/file)" = 660 ]
    # Inherited in place of the umask, from directory to directory.
    mkdir shared
    setfacl -d -m "u:$user:rwx,g::rx,o::-" shared
    (umask 077 && mkdir shared/sub && echo x >shared/sub/file)
    [ "$(stat -c %a shared/sub shared/sub/file | xargs)" = "770 660" ]
    as_user tee shared/sub/file </dev/null
    getfacl -cnd shared/sub | grep -q "^user:$user:rwx"
    setfacl -k shared/sub
    (umask 027 && echo x >shared/sub/plain)
    [ "$(stat -c %a shared/sub/plain)" = 640 ]
    setfacl -b closed/file
    refused as_user cat closed/file
    getfacl -Rcn closed shared >"$work/p1"
    cd /
    again
    cd "$mnt"
    getfacl -Rcn closed shared | diff "$work/p1" -
    # Another user's files in a sticky directory stay.
    mkdir -m 1777 sticky
    touch sticky/root
    refused as_user rm -f sticky/root
    as_user touch sticky/own
    as_user rm sticky/own
    # Set-id bits go when somebody else than root writes, cuts or when the owner changes.
    for how in 'tee -a' 'truncate -s 1'; do
        echo x >set-id
        chmod 6777 set-id
        echo | as_user $how set-id >/dev/null
        [ "$(stat -c %a set-id)" = 777 ] || { echo "after $how: $(stat -c %a set-id)"; return 1; }
    done
    chmod 6777 set-id
    chown nobody set-id
    [ "$(stat -c %a set-id)" = 777 ]
}

limits_case() {
    need python3=python3
    cat >"$work/limits.py" <<'PYTHON'
import ctypes, errno, fcntl, mmap, os, sys
root = sys.argv[1].encode()
os.chdir(root)

def fails(expected, call, *words):
    try:
        call(*words)
    except OSError as error:
        assert error.errno == expected, (call, error)
        return
    raise AssertionError(f"{call} {words} did not fail with {errno.errorcode[expected]}")

def put(name, data=b""):
    with open(name, "wb") as file:
        file.write(data)

# Names of any byte but two, up to 255 of them; paths to PATH_MAX.
os.mkdir(b"names")
for byte in range(1, 256):
    if byte not in (ord("/"),):
        put(b"names/" + bytes([byte]) * (3 if byte == ord(".") else 1))
put(b"names/" + b"\xff" * 255)
fails(errno.ENAMETOOLONG, put, b"names/" + b"n" * 256)
assert len(os.listdir(b"names")) == 255
deep = os.open(b".", os.O_RDONLY)
for _ in range(20):
    os.mkdir(b"d" * 255, dir_fd=deep)
    deep = os.open(b"d" * 255, os.O_RDONLY, dir_fd=deep)
os.close(os.open(b"end", os.O_CREAT | os.O_WRONLY, dir_fd=deep))
fails(errno.ENAMETOOLONG, os.stat, b"/".join([b"d" * 255] * 20))

put(b"one")
# 65,000 links of a file.
os.mkdir(b"links")
for number in range(64_999):
    os.link(b"one", b"links/%d" % number)
fails(errno.EMLINK, os.link, b"one", b"links/more")
assert os.stat(b"one").st_nlink == 65_000

# Sizes to the end of what off_t can say, and holes that cost nothing.
with open(b"large", "wb+", buffering=0) as file:
    file.truncate(2**63 - 1)
    assert os.stat(b"large").st_size == 2**63 - 1 and os.stat(b"large").st_blocks == 0
    assert os.pwrite(file.fileno(), b"end", 2**63 - 4097) == 3
    assert os.pread(file.fileno(), 9, 2**63 - 4098) == b"\0end" + b"\0" * 5
    fails(errno.EINVAL, os.pwrite, file.fileno(), b"x", 2**63 - 1)
    assert os.lseek(file.fileno(), 0, os.SEEK_DATA) <= 2**63 - 4097
assert 0 < os.stat(b"large").st_blocks <= 256

# Times before 1970, to the nanosecond.
for nanos in (-1, -10**18 + 7, 0, 10**18 + 9):
    os.utime(b"one", ns=(nanos, nanos + 1))
    assert (os.stat(b"one").st_atime_ns, os.stat(b"one").st_mtime_ns) == (nanos, nanos + 1), nanos

# Several processes append; each record is whole. One of them makes each file.
children = []
for child in range(4):
    pid = os.fork()
    if pid == 0:
        fd = os.open(b"appended", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        made = 0
        for number in range(500):
            os.write(fd, b"%d" % child * 700 + b"\n")
            try:
                os.close(os.open(b"race-%d" % number, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                made += 1
            except FileExistsError:
                pass
        put(b"made-%d" % child, b"%d" % made)
        os._exit(0)
    children.append(pid)
assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
lines = open(b"appended", "rb").read().split(b"\n")[:-1]
assert len(lines) == 2000 and all(len(line) == 700 and len(set(line)) == 1 for line in lines)
assert sum(int(open(b"made-%d" % child).read()) for child in range(4)) == 500

# Locks are the kernel's: they conflict between processes.
file = open(b"locked", "wb")
fcntl.flock(file, fcntl.LOCK_EX)
other = open(b"locked", "wb")
fails(errno.EAGAIN, fcntl.flock, other, fcntl.LOCK_EX | fcntl.LOCK_NB)
fcntl.flock(file, fcntl.LOCK_UN)
fcntl.lockf(file, fcntl.LOCK_EX, 10)
pid = os.fork()
if pid == 0:
    try:
        fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB, 10)
    except OSError:
        os._exit(0)
    os._exit(1)
assert os.waitpid(pid, 0)[1] == 0

# Shared and private mappings; what is mapped is what is read.
put(b"mapped", b"a" * 8192)
with open(b"mapped", "rb+", buffering=0) as file:
    shared = mmap.mmap(file.fileno(), 8192, mmap.MAP_SHARED)
    private = mmap.mmap(file.fileno(), 8192, mmap.MAP_PRIVATE)
    shared[5000:5003] = b"xyz"
    private[0:3] = b"123"
    shared.flush()
    assert os.pread(file.fileno(), 5, 4999) == b"axyza" and os.pread(file.fileno(), 3, 0) == b"aaa"
    os.pwrite(file.fileno(), b"now", 100)
    assert shared[100:103] == b"now"

# What is written and not synced is no hole.
with open(b"unsynced", "wb+", buffering=0) as file:
    file.truncate(40960)
    os.pwrite(file.fileno(), b"data", 20480)
    assert os.lseek(file.fileno(), 20480, os.SEEK_DATA) == 20480

# SEEK_DATA and SEEK_HOLE, of written bytes and of holes, before anything is synced.
with open(b"holes", "wb+", buffering=0) as file:
    for block in (2, 3, 7):
        os.pwrite(file.fileno(), b"b" * 4096, block * 4096)
    file.truncate(10 * 4096)
    fd = file.fileno()
    ends = [os.lseek(fd, 0, os.SEEK_DATA), os.lseek(fd, 8192, os.SEEK_HOLE), os.lseek(fd, 4 * 4096, os.SEEK_DATA),
            os.lseek(fd, 7 * 4096, os.SEEK_HOLE)]
    assert ends == [2 * 4096, 4 * 4096, 7 * 4096, 8 * 4096], ends
    fails(errno.ENXIO, os.lseek, fd, 8 * 4096, os.SEEK_DATA)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong]
    assert libc.fallocate(fd, 0x10 | 0x01, 0, 3 * 4096) == 0  # zero range, keep size
    assert os.lseek(fd, 0, os.SEEK_DATA) == 3 * 4096
    assert libc.fallocate(fd, 0x01, 20 * 4096, 4096) == 0 and os.fstat(fd).st_size == 10 * 4096
    assert libc.fallocate(fd, 0x10, 20 * 4096, 4096) == 0 and os.fstat(fd).st_size == 21 * 4096
    # A copy keeps the holes, and shares nothing with its source.
    copy = os.open(b"copy", os.O_CREAT | os.O_RDWR)
    done = 0
    while done < 21 * 4096:
        moved = os.copy_file_range(fd, copy, 21 * 4096 - done, done, done)
        assert moved > 0
        done += moved
    assert os.lseek(copy, 0, os.SEEK_DATA) == 3 * 4096 and os.fstat(copy).st_blocks == 16
    os.pwrite(fd, b"changed", 3 * 4096)
    assert os.pread(copy, 7, 3 * 4096) == b"b" * 7
PYTHON
    mkdir "$mnt/limits"
    timeout 300 python3 "$work/limits.py" "$mnt/limits"
    timeout 120 rm -rf "$mnt/limits"
    local cache
    for cache in writeback_cache=on direct_io=on block_size=64K; do
        stop
        [ "$cache" != block_size=64K ] || rm -rf "$store"
        start "$cache"
        mkdir "$mnt/limits"
        # Bytes that the kernel has not sent yet, and blocks of another size, are other questions.
        # That many links are slow to make, and no matter of caching.
        sed -i '/^# 65,000 links/,/^assert .*st_nlink/d' "$work/limits.py"
        [ "$cache" = direct_io=on ] || sed -i '/^# SEEK_DATA/,$d' "$work/limits.py"
        timeout 300 python3 "$work/limits.py" "$mnt/limits" || { echo "with $cache"; return 1; }
        timeout 120 rm -rf "$mnt/limits"
    done
}

stress_case() {
    need stress-ng=stress-ng
    mkdir "$mnt/stress"
    # Not those that make filesystems of their own or look at the machine's, and one process of each.
    timeout 400 stress-ng --class filesystem --all 1 --timeout 60 --temp-path "$mnt/stress" --metrics-brief --verify \
        --exclude "${STRESS_EXCLUDE:-binderfs,sysfs,procfs,dev-shm,loop,ramfs,swap}" \
        >"$work/stress.txt" 2>&1 || {
        code=$?
        grep -vE 'info:|skipp' "$work/stress.txt" | head -n 30
        return "$code"
    }
    tail -n 3 "$work/stress.txt"
    rm -rf "$mnt/stress"
}

user_case() {
    local mode
    mode=$(stat -c %a /dev/fuse)
    # As udev makes it everywhere.
    [ "$mode" = 666 ] || chmod 666 /dev/fuse
    rm -rf --one-file-system "$work/user"
    mkdir -p "$work/user/mnt"
    chown -R nobody "$work/user"
    local code=0
    (
        cd "$work/user"
        as_user "$kvfs" mount "$work/user/store" "$work/user/mnt" -o "engine=$engine"
        as_user sh -ec 'cd mnt; seq 100000 > file; mkdir d; ln file d/link; mv d e; sync e; test "$(tail -n 1 e/link)" = 100000'
        # Root is not let in where allow_other was not asked for, as with any FUSE mount of a user.
        refused ls "$work/user/mnt"
        [ "$(stat -c %a "$work/user/store")" = 700 ]
        refused as_user "$kvfs" mount "$work/user/store2" "$work/user"
        as_user "$kvfs" umount "$work/user/mnt"
        as_user "$kvfs" check "$work/user/store"
    ) || code=$?
    timeout 60 "$kvfs" umount "$work/user/mnt" >/dev/null 2>&1 || true
    [ "$mode" = 666 ] || chmod "$mode" /dev/fuse
    return "$code"
}

engines "$which" >"$work/engines"
while read -r which; do
    echo "== programs, engine=$which"
    for name in "$@"; do
        declare -F "${name}_case" >/dev/null || { echo "no case $name" >&2; exit 2; }
        fresh "$which"
        attempt "$which $name" 600 "${name}_case"
        # What pgbench measured.
        grep -h '^tps' "$work/output.txt" | sed 's/^/    /' || true
        rm -rf "$work/source" "$work/tree" "$work/back" "$work/out"
        stop || { umount -l "$mnt"; fail "$which: unmounting after $name"; }
        check_store || fail "$which: kvfs check after $name"
    done
done <"$work/engines"
total
