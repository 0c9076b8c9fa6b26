#!/usr/bin/env bash
# A Ray cluster on this machine for the fleet of quickstart: a head and 4 labelled worker(s).
#   1 node of 2 jetson-nano, 1 node of 2 jetson-xavier-nx, 1 node of 2 jetson-agx-xavier, 1 node of 2 raspberry-pi-4-4gb
# Made by: fedknow-ray cluster render --fleet configs/quickstart.yaml --kind local
#
#   bash local.sh                                  runs until Ctrl-C, and says how to connect
#   bash local.sh COMMAND [ARGUMENT ...]           runs a command that finds the cluster, and ends with its status:
#   bash local.sh fedknow-ray run configs/quickstart.yaml --address auto
#
# Nothing listens beyond 127.0.0.1, each start has a token of its own, and all that was started ends with the script.
set -euo pipefail
umask 077

port=${FEDKNOW_PORT:-}
if [ -z "$port" ]; then
  port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
fi
# short, as the path of a socket may have 107 bytes; Ray opens its own folder to everybody, so it is one inside
folder=$(mktemp -d /tmp/fkr-XXXXXX)
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN
printf %s "$RAY_AUTH_TOKEN" > "$folder/token"
export RAY_USAGE_STATS_ENABLED=0
export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=1
export MALLOC_MMAP_THRESHOLD_=33554432
export MALLOC_TRIM_THRESHOLD_=268435456
export RAY_health_check_initial_delay_ms=5000
export RAY_health_check_period_ms=1000
export RAY_health_check_timeout_ms=5000
export RAY_health_check_failure_threshold=4
unset RAY_ADDRESS RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER

pids=() running=
finish() {
  trap - EXIT
  trap '' INT TERM HUP
  # the command first, which may have something to save, then the workers; only what was started here
  if [ -n "$running" ]; then
    kill "$running" 2> /dev/null || true
    wait "$running" 2> /dev/null || true
  fi
  for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
    kill "${pids[i]}" 2> /dev/null || true
  done
  for pid in "${pids[@]}"; do
    wait "$pid" 2> /dev/null || true
  done
  rm -rf "$folder" || true
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# start NAME OPTION ...: one node, whose own log is NAME.log; returns when it has started
start() {
  local log=$folder/$1.log
  : > "$log"
  shift
  # a session of its own, so that Ctrl-C reaches it only by way of finish
  setsid python -m fedknow_ray.runtime.ray_on_loopback start --block --node-ip-address=127.0.0.1 \
    --temp-dir="$folder/ray" --dashboard-agent-listen-port=0 --object-store-memory=134217728 "$@" \
    > "$log" 2>&1 < /dev/null &
  pids+=($!)
  for ((tries = 0; tries < 240; tries++)); do
    if grep -q "Ray runtime started" "$log"; then
      return
    fi
    kill -0 "${pids[-1]}" 2> /dev/null || break
    sleep 0.5
  done
  cat "$log" >&2
  echo "error: a node did not start within 120 s (above is what it said)" >&2
  exit 1
}

start head --head --port="$port" --include-dashboard=false \
  --num-cpus=0 --num-gpus=0 --memory=419430400
start jetson-nano-0 --address="127.0.0.1:$port" \
  --num-cpus=2 --num-gpus=0 --memory=1286602752 \
  --resources='{"device:jetson-nano": 2}' --labels=fedknow.io/device=jetson-nano
start jetson-xavier-nx-1 --address="127.0.0.1:$port" \
  --num-cpus=2 --num-gpus=0 --memory=1286602752 \
  --resources='{"device:jetson-xavier-nx": 2}' --labels=fedknow.io/device=jetson-xavier-nx
start jetson-agx-xavier-2 --address="127.0.0.1:$port" \
  --num-cpus=2 --num-gpus=0 --memory=1286602752 \
  --resources='{"device:jetson-agx-xavier": 2}' --labels=fedknow.io/device=jetson-agx-xavier
start raspberry-pi-4-4gb-3 --address="127.0.0.1:$port" \
  --num-cpus=2 --num-gpus=0 --memory=1286602752 \
  --resources='{"device:raspberry-pi-4-4gb": 2}' --labels=fedknow.io/device=raspberry-pi-4-4gb

export RAY_ADDRESS=127.0.0.1:$port
# has a driver keep to 127.0.0.1 as the nodes do
export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0
if [ $# -gt 0 ]; then
  # in the background, so that a signal to this script reaches it without waiting for the command's end
  "$@" <&0 &
  running=$! status=0
  wait "$running" || status=$?
  running=
  exit "$status"
fi
cat <<TEXT
5 nodes are up. In another shell:
  export RAY_ADDRESS=$RAY_ADDRESS RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0
  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$folder/token
  fedknow-ray run configs/quickstart.yaml --address auto
Ctrl-C here ends them.
TEXT
# until a node ends, or a signal comes
wait -n "${pids[@]}"
echo "error: a node has ended" >&2
exit 1
