#!/usr/bin/env bash
# A Flink session cluster on this machine's loopback: one job manager, task managers with one or more slots, and a pool
# of Python workers for --environment_type=EXTERNAL. What is started is stopped by its process id, and only that.
#
# Usage: scripts/flink/cluster.sh up [TASK_MANAGERS [SLOTS_EACH]]     default: 1 task manager with 2 slots
#        scripts/flink/cluster.sh down | status
# A worker pool serves one task manager; with several, use --environment_type=PROCESS (two task managers name their
# workers alike, and a pool would stop one's worker for the other).
# Environment: MILLCERT_FLINK_HOME (.venvs/flink), MILLCERT_FLINK_RUN (its run/), FLINK_PORT (8081; the worker pool
# listens one above), PYTHON (the interpreter of the workers: millcert must be installed in it).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
home=${MILLCERT_FLINK_HOME:-$here/../../.venvs/flink}
[[ -f $home/.installed ]] || { echo "flink: not installed; run scripts/flink/install.sh" >&2; exit 2; }
home=$(cd "$home" && pwd)
run=${MILLCERT_FLINK_RUN:-$home/run}
port=${FLINK_PORT:-8081}
python=${PYTHON:-python3}

start() { # start NAME COMMAND...: in a session of its own, so that its children end with it
    local name=$1
    shift
    setsid "$@" >"$run/$name.log" 2>&1 </dev/null &
    # A process is named by its id and its start time, so that a later process of that id is never taken for it.
    echo "$! $(cut -d' ' -f22 "/proc/$!/stat")" >"$run/$name.pid"
}

alive() { # alive PIDFILE: say whether the process that was started is still there
    local pid started
    read -r pid started <"$1"
    [[ -r /proc/$pid/stat && $(cut -d' ' -f22 "/proc/$pid/stat") == "$started" ]]
}

stop() { # stop PIDFILE: the process and its session, by id
    local pid
    read -r pid _ <"$1"
    if alive "$1"; then
        kill -TERM -- "-$pid" 2>/dev/null || true
        for _ in $(seq 100); do alive "$1" || break; sleep 0.1; done
    fi
    kill -KILL -- "-$pid" 2>/dev/null || true
    rm -f "$1"
}

down() {
    local file
    shopt -s nullglob
    for file in "$run"/workers*.pid "$run"/taskmanager*.pid "$run"/jobmanager*.pid; do stop "$file"; done
    rm -rf "$run/tmp"
}

slots() { # the cluster's own count of slots; 0 while it does not answer
    "$python" - "$port" <<'PYTHON'
import json, sys, urllib.request
try:
    with urllib.request.urlopen(f"http://localhost:{sys.argv[1]}/overview", timeout=2) as answer:
        print(json.load(answer)["slots-total"])
except OSError:
    print(0)
PYTHON
}

up() {
    local managers=${1:-1} each=${2:-2} number
    mkdir -p "$run/conf"
    down
    mkdir -p "$run/tmp"
    for number in 0 1 2 3; do
        if (: <"/dev/tcp/localhost/$((port + number))") 2>/dev/null; then
            echo "flink: somebody listens at localhost:$((port + number)); set FLINK_PORT" >&2
            exit 2
        fi
    done
    cp "$home"/conf/log4j*.properties "$run/conf/"
    sed -n '/^env:/,/all:/p' "$home/conf/config.yaml" >"$run/conf/config.yaml"
    cat >>"$run/conf/config.yaml" <<YAML
jobmanager: {bind-host: localhost, rpc: {address: localhost, port: $((port + 2))}, memory: {process: {size: 1024m}}}
taskmanager:
  bind-host: localhost
  host: localhost
  numberOfTaskSlots: $each
  memory: {process: {size: 2304m}, task: {off-heap: {size: 256m}}, network: {min: 256m, max: 256m}}
  network: {sort-shuffle: {min-buffers: 64}}
parallelism: {default: 1}
# With Beam's runner in lib/ and this order, Python workers live for the whole job; else each stage starts its own.
classloader: {resolve-order: parent-first}
rest: {address: localhost, bind-address: localhost, port: $port}
io: {tmp: {dirs: $run/tmp}}
blob: {server: {port: $((port + 3))}}
# A lost worker or task manager is not the end of a job: all that a job writes may be written again. One loss fails many
# tasks at once, which this strategy counts as one attempt; and its delay is longer than millcert lets a cluster keep
# workers (5 seconds), so that a restarted task does not meet the dead worker again.
restart-strategy:
  type: exponential-delay
  exponential-delay: {initial-backoff: 10 s, max-backoff: 20 s, backoff-multiplier: 1.5, attempts-before-reset-backoff: 3}
heartbeat: {timeout: 20000, interval: 4000}
slot: {request: {timeout: 30000}}
cluster: {evenly-spread-out-slots: true}
web: {refresh-interval: 500}
YAML
    export FLINK_CONF_DIR=$run/conf FLINK_LOG_DIR=$run FLINK_HOME=$home
    # The workers' subprocesses are started as `python`.
    local bin
    bin=$(dirname "$(command -v "$python")")
    start workers env PATH="$bin:$PATH" "$python" -m apache_beam.runners.worker.worker_pool_main --service_port=$((port + 1))
    start jobmanager "$home/bin/jobmanager.sh" start-foreground
    for number in $(seq "$managers"); do
        start "taskmanager$number" "$home/bin/taskmanager.sh" start-foreground
    done
    for _ in $(seq 240); do
        if [[ $(slots) -ge $((managers * each)) ]]; then
            echo "flink: $((managers * each)) slots at localhost:$port, Python workers at localhost:$((port + 1))"
            return
        fi
        for number in "$run"/*.pid; do
            alive "$number" || { tail -n 20 "${number%.pid}.log" >&2; down; echo "flink: $number ended" >&2; exit 5; }
        done
        sleep 1
    done
    tail -n 20 "$run"/*.log >&2
    down
    echo "flink: no slots within 240 seconds" >&2
    exit 5
}

case ${1:-} in
    up) shift; up "$@" ;;
    down) down ;;
    status) slots ;;
    *) sed -n '2,11p' "$0" >&2; exit 2 ;;
esac
