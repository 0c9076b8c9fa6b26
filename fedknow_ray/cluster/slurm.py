"""A Slurm batch script: a head on the first node of the job, a worker on each other one, and the run itself."""

from __future__ import annotations

import math

from fedknow_ray.cluster.environment import exports, node_environment, resource_options
from fedknow_ray.cluster.plan import HEAD_HOST_BYTES, HEAD_MEMORY_BYTES, MIB, OBJECT_STORE_BYTES, ClusterPlan

SCRIPT = """\
#!/usr/bin/env bash
# A Ray cluster inside a Slurm job for the fleet of {name}, and the run on it.
#   {fleet}
# Made by: {command}
#
#   sbatch slurm.sh                                           runs {config}, results in runs/{name}-JOBID
#   sbatch slurm.sh fedknow-ray resume runs/{name}-JOBID      or another command, with the options to join the cluster
#
# Fill in: the environment below, and what your site wants (partition, account). Submit from the folder that the paths
# are relative to, on a file system that all nodes see.
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task={cpus}
#SBATCH --mem={memory_mib}M
#SBATCH --time=04:00:00
#SBATCH --output={name}-%j.log
#SBATCH --signal=B:TERM@120
set -euo pipefail
umask 077
source "${{FEDKNOW_ENV:-$SLURM_SUBMIT_DIR/.venv}}/bin/activate"

# The token is in the environment of this job's processes, and in no file.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN
{environment}
unset RAY_ADDRESS

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
# which node is what; the first, where this script runs, is the head
kinds=({kinds})
head_ip=$(hostname -I | awk '{{print $1}}')
port=$((20000 + SLURM_JOB_ID % 20000))
folder=/tmp/fkr-$SLURM_JOB_ID

steps=() running=
finish() {{
  trap - EXIT
  trap '' INT TERM
  # the command first, which may have something to save
  if [ -n "$running" ]; then
    kill "$running" 2> /dev/null || true
    wait "$running" 2> /dev/null || true
  fi
  # only this job's own steps; srun passes the signal on to what runs in them
  for ((i = ${{#steps[@]}} - 1; i >= 0; i--)); do
    kill "${{steps[i]}}" 2> /dev/null || true
  done
  for step in "${{steps[@]}}"; do
    wait "$step" 2> /dev/null || true
  done
  srun --overlap --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 rm -rf "$folder" || true
}}
trap finish EXIT
trap 'exit 143' INT TERM

# start NODE OPTION ...: Ray on one node, in a folder of this job's that nobody else can have made, or opens
start() {{
  local node=$1
  shift
  srun --overlap --nodes=1 --ntasks=1 --nodelist="$node" bash -c '
    umask 077; mkdir "$0" && exec ray start --block --temp-dir="$0/ray" "$@"' "$folder" \\
    --num-gpus=0 --object-store-memory={store_bytes} "$@" &
  steps+=($!)
}}

start "${{nodes[0]}}" --head --port="$port" --node-ip-address="$head_ip" --include-dashboard=false \\
  --num-cpus=0 --memory={head_bytes}
for ((n = 0; n < ${{#kinds[@]}}; n++)); do
  case ${{kinds[n]}} in
{cases}
  esac
  start "${{nodes[n + 1]}}" --address="$head_ip:$port" "${{options[@]}}"
done

# until all of the fleet has a place
fedknow-ray doctor {config} --address "$head_ip:$port" --wait 300

if [ $# -eq 0 ]; then
  set -- fedknow-ray run {config} --out "runs/{name}-$SLURM_JOB_ID"
fi
# in the background, so that a signal two minutes before the time is up reaches it
"$@" --address "$head_ip:$port" --quiet --json &
running=$! status=0
wait "$running" || status=$?
running=
exit "$status"
"""


def render(plan: ClusterPlan, config: str, command: str) -> str:
    """Return the script; *config* is the path of the config that it runs, *command* what made it.

    Nodes of a job are alike, so each has the processors and the memory of the largest group.
    """
    most_bytes = max(HEAD_HOST_BYTES, *(group.host_bytes for group in plan.groups))
    return SCRIPT.format(
        name=plan.name,
        fleet=plan.clients,
        config=config,
        command=command,
        nodes=len(plan.kinds) + 1,
        cpus=max(group.cpus for group in plan.groups),
        memory_mib=math.ceil(most_bytes / MIB),
        environment="\n".join(exports(node_environment())),
        kinds=" ".join(group.device for group in plan.kinds),
        store_bytes=OBJECT_STORE_BYTES,
        head_bytes=HEAD_MEMORY_BYTES,
        cases="\n".join(
            f"    {group.device})\n"
            f"      options=(--num-cpus={group.cpus} --memory={group.memory_bytes}"
            f" {' '.join(resource_options(group))})\n"
            f"      ;;"
            for group in plan.groups
        ),
    )
