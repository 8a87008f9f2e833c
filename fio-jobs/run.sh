#!/usr/bin/env bash
# Runs fio jobs on a mount and prints fio's figures beside the amplification that they caused.
set -euo pipefail

all=(seqwrite seqread randwrite-fsync randwrite randread overwrite-zipf smallfiles delete-storm append-log mixed-rw)

usage() {
    cat <<TEXT
usage: fio-jobs/run.sh DIR [JOB...]

Runs the jobs (default: all) in a new directory under DIR and prints a row for each. On a kvfs mount the row ends with
the amplification since the job's own mark; on any other directory these columns are '-', so that the same command
measures the filesystem below. Files are removed after each job.

jobs:  ${all[*]}

environment:
  SIZE      bytes of the large files        (256m)
  SMALL     bytes of the others' files      (64m)
  FILES     number of small files           (10000)
  RUNTIME   seconds a job at most           (20)
  TABLE     write the rows there as well, tab-separated
  OUTPUT    keep fio's JSON results in this directory

columns: MB/s (10^6 bytes), operations a second, median and 99th percentile of completion latency in microseconds;
write amplification total = disk / application, fs = engine's keys and values / application, engine = disk / keys and
values; read amplification; space amplification at the end. A job with reads and writes has a row for each, a job with
syncs a row for their latency.
TEXT
}

# shellcheck source=fio-jobs/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

arguments "$@"
mount=${1%/}
shift
jobs=("$@")
[ ${#jobs[@]} -gt 0 ] || jobs=("${all[@]}")

tools fio jq
for job in "${jobs[@]}"; do
    [ -f "$here/$job.fio" ] || die "no job '$job'; there are: ${all[*]}"
done

export SIZE=${SIZE:-256m} SMALL=${SMALL:-64m} FILES=${FILES:-10000} RUNTIME=${RUNTIME:-20}

metered=no
if [ -f "$mount/.stats" ] && [ -f "$mount/.stats.d/json" ]; then
    metered=yes
fi

scratch=$(mktemp -d)
DIR=$(mktemp -d "$mount/fio-XXXXXX") || die "cannot write in $mount"
export DIR
trap 'rm -rf "$scratch" "$DIR"' EXIT
[ -z "${OUTPUT:-}" ] || mkdir -p "$OUTPUT"
[ -z "${TABLE:-}" ] || : >"$TABLE"

# Everything written so far reaches the disk, on either kind of directory.
settle() {
    if [ "$metered" = yes ]; then
        echo sync >"$mount/.stats"
    else
        sync -f "$mount"
    fi
}

row() {
    printf '%-24s %9s %9s %9s %9s | %8s %6s %7s %8s %6s\n' "$@"
    if [ -n "${TABLE:-}" ]; then
        (
            IFS=$'\t'
            echo "$*"
        ) >>"$TABLE"
    fi
}

row job MB/s IOPS p50us p99us w-total w-fs w-engine read space
for job in "${jobs[@]}"; do
    file=$here/$job.fio
    result=$scratch/$job.json
    if grep -q '^# run.sh: layout' "$file"; then
        fio --create_only=1 "$file" >"$scratch/layout.log" 2>&1 || { cat "$scratch/layout.log" >&2; die "layout of $job failed"; }
        settle
    fi
    name=fio-$job
    [ "$metered" = no ] || echo "mark $name" >"$mount/.stats"
    fio --output-format=json --output="$result" "$file" >"$scratch/fio.log" 2>&1 ||
        { cat "$scratch/fio.log" "$result" >&2; die "$job failed"; }
    settle
    amplification="- - - - -"
    if [ "$metered" = yes ]; then
        amplification=$(jq -r '
            def figure: if . == null then "-" else (. * 100 | round) / 100 | tostring end;
            .amplification | [.write, .fs_write, .engine_write, .read, .space] | map(figure) | join(" ")
            ' "$mount/.stats.d/since/$name.json")
    fi
    # fio may print warnings before its JSON.
    sed -n '/^{/,$p' "$result" | jq -r --arg job "$job" '
        def us: if . == null then "-" else . / 1000 | round | tostring end;
        def tenth: . * 10 | round / 10 | tostring;
        .jobs[0] as $j
        | ([$j.read.total_ios, $j.write.total_ios] | map(. > 0) | all) as $mixed
        | ( ["read", "write"][] as $way | $j[$way] | select(.total_ios > 0)
            | [ $job + (if $mixed then " " + $way else "" end),
                (if $j["job options"].ioengine == "filedelete" then "-" else (.bw_bytes / 1e6 | tenth) end), (.iops | round | tostring),
                (.clat_ns.percentile."50.000000" | us), (.clat_ns.percentile."99.000000" | us) ] ),
          ( $j.sync | select(.lat_ns.N > 0)
            | [ $job + " sync", "-", (.lat_ns.N * 1000 / ([$j.job_runtime, 1] | max) | round | tostring),
                (.lat_ns.percentile."50.000000" | us), (.lat_ns.percentile."99.000000" | us) ] )
        | @tsv' >"$scratch/rows"
    [ -s "$scratch/rows" ] || die "$job did no I/O; see $result"
    while IFS=$'\t' read -r label throughput iops median tail; do
        # shellcheck disable=SC2086 # five words
        row "$label" "$throughput" "$iops" "$median" "$tail" $amplification
        amplification="- - - - -"
    done <"$scratch/rows"
    [ -z "${OUTPUT:-}" ] || cp "$result" "$OUTPUT/$job.json"
    find "$DIR" -mindepth 1 -delete
    settle
done
