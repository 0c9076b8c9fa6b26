"""A script that starts a head and a worker for each group of nodes on this machine, and ends them again.

For trying on one machine what a cluster does: several nodes, their labels, a token, a node that is killed.
"""

from __future__ import annotations

from fedknow_ray.cluster.environment import exports, node_environment, resource_options
from fedknow_ray.cluster.plan import HEAD_MEMORY_BYTES, MIB, ClusterPlan, NodeGroup
from fedknow_ray.runtime.ray_session import HEALTH_CHECKS

#: Of each node; all are on one machine's /dev/shm.
STORE_BYTES = 128 * MIB

SCRIPT = """\
#!/usr/bin/env bash
# A Ray cluster on this machine for the fleet of {name}: a head and {workers} labelled worker(s).
#   {fleet}
# Made by: {command}
#
#   bash {file}                                  runs until Ctrl-C, and says how to connect
#   bash {file} COMMAND [ARGUMENT ...]           runs a command that finds the cluster, and ends with its status:
#   bash {file} fedknow-ray run {config} --address auto
#
# Nothing listens beyond 127.0.0.1, each start has a token of its own, and all that was started ends with the script.
set -euo pipefail
umask 077

port=${{FEDKNOW_PORT:-}}
if [ -z "$port" ]; then
  port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
fi
# short, as the path of a socket may have 107 bytes; Ray opens its own folder to everybody, so it is one inside
folder=$(mktemp -d /tmp/fkr-XXXXXX)
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN
printf %s "$RAY_AUTH_TOKEN" > "$folder/token"
{environment}
unset RAY_ADDRESS RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER

pids=() running=
finish() {{
  trap - EXIT
  trap '' INT TERM HUP
  # the command first, which may have something to save, then the workers; only what was started here
  if [ -n "$running" ]; then
    kill "$running" 2> /dev/null || true
    wait "$running" 2> /dev/null || true
  fi
  for ((i = ${{#pids[@]}} - 1; i >= 0; i--)); do
    kill "${{pids[i]}}" 2> /dev/null || true
  done
  for pid in "${{pids[@]}}"; do
    wait "$pid" 2> /dev/null || true
  done
  rm -rf "$folder" || true
}}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# start NAME OPTION ...: one node, whose own log is NAME.log; returns when it has started
start() {{
  local log=$folder/$1.log
  : > "$log"
  shift
  # a session of its own, so that Ctrl-C reaches it only by way of finish
  setsid python -m fedknow_ray.runtime.ray_on_loopback start --block --node-ip-address=127.0.0.1 \\
    --temp-dir="$folder/ray" --dashboard-agent-listen-port=0 --object-store-memory={store_bytes} "$@" \\
    > "$log" 2>&1 < /dev/null &
  pids+=($!)
  for ((tries = 0; tries < 240; tries++)); do
    if grep -q "Ray runtime started" "$log"; then
      return
    fi
    kill -0 "${{pids[-1]}}" 2> /dev/null || break
    sleep 0.5
  done
  cat "$log" >&2
  echo "error: a node did not start within 120 s (above is what it said)" >&2
  exit 1
}}

start head --head --port="$port" --include-dashboard=false \\
  --num-cpus=0 --num-gpus=0 --memory={head_bytes}
{workers_start}

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
{started} nodes are up. In another shell:
  export RAY_ADDRESS=$RAY_ADDRESS RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0
  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$folder/token
  fedknow-ray run {config} --address auto
Ctrl-C here ends them.
TEXT
# until a node ends, or a signal comes
wait -n "${{pids[@]}}"
echo "error: a node has ended" >&2
exit 1
"""


def render(plan: ClusterPlan, config: str, command: str) -> str:
    """Return the script; *config* is the path of the config that it names, *command* what made it."""
    return SCRIPT.format(
        name=plan.name,
        fleet=plan.clients,
        workers=len(plan.kinds),
        started=len(plan.kinds) + 1,
        config=config,
        command=command,
        file="local.sh",
        environment="\n".join(exports(node_environment(HEALTH_CHECKS))),
        store_bytes=STORE_BYTES,
        head_bytes=HEAD_MEMORY_BYTES,
        workers_start="\n".join(_start(number, group) for number, group in enumerate(plan.kinds)),
    )


def _start(number: int, group: NodeGroup) -> str:
    options = [f"--num-cpus={group.cpus}", "--num-gpus=0", f"--memory={group.memory_bytes}"]
    return (
        f'start {group.device}-{number} --address="127.0.0.1:$port" \\\n'
        f"  {' '.join(options)} \\\n  {' '.join(resource_options(group))}"
    )
