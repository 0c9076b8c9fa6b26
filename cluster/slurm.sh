#!/usr/bin/env bash
# A Ray cluster inside a Slurm job for the fleet of quickstart, and the run on it.
#   1 node of 2 jetson-nano, 1 node of 2 jetson-xavier-nx, 1 node of 2 jetson-agx-xavier, 1 node of 2 raspberry-pi-4-4gb
# Made by: fedknow-ray cluster render --fleet configs/quickstart.yaml --kind slurm
#
#   sbatch slurm.sh                                           runs configs/quickstart.yaml, results in runs/quickstart-JOBID
#   sbatch slurm.sh fedknow-ray resume runs/quickstart-JOBID      or another command, with the options to join the cluster
#
# Fill in: the environment below, and what your site wants (partition, account). Submit from the folder that the paths
# are relative to, on a file system that all nodes see.
#SBATCH --job-name=quickstart
#SBATCH --nodes=5
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=2
#SBATCH --mem=2704M
#SBATCH --time=04:00:00
#SBATCH --output=quickstart-%j.log
#SBATCH --signal=B:TERM@120
set -euo pipefail
umask 077
source "${FEDKNOW_ENV:-$SLURM_SUBMIT_DIR/.venv}/bin/activate"

# The token is in the environment of this job's processes, and in no file.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN
export RAY_USAGE_STATS_ENABLED=0
export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=1
export MALLOC_MMAP_THRESHOLD_=33554432
export MALLOC_TRIM_THRESHOLD_=268435456
export RAY_health_check_initial_delay_ms=5000
export RAY_health_check_period_ms=1000
export RAY_health_check_timeout_ms=2000
export RAY_health_check_failure_threshold=3
unset RAY_ADDRESS

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
# which node is what; the first, where this script runs, is the head
kinds=(jetson-nano jetson-xavier-nx jetson-agx-xavier raspberry-pi-4-4gb)
head_ip=$(hostname -I | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 20000))
folder=/tmp/fkr-$SLURM_JOB_ID

steps=() running=
finish() {
  trap - EXIT
  trap '' INT TERM
  # the command first, which may have something to save
  if [ -n "$running" ]; then
    kill "$running" 2> /dev/null || true
    wait "$running" 2> /dev/null || true
  fi
  # only this job's own steps; srun passes the signal on to what runs in them
  for ((i = ${#steps[@]} - 1; i >= 0; i--)); do
    kill "${steps[i]}" 2> /dev/null || true
  done
  for step in "${steps[@]}"; do
    wait "$step" 2> /dev/null || true
  done
  srun --overlap --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 rm -rf "$folder" || true
}
trap finish EXIT
trap 'exit 143' INT TERM

# start NODE OPTION ...: Ray on one node, in a folder of this job's that nobody else can have made, or opens
start() {
  local node=$1
  shift
  srun --overlap --nodes=1 --ntasks=1 --nodelist="$node" bash -c '
    umask 077; mkdir "$0" && exec ray start --block --temp-dir="$0/ray" "$@"' "$folder" \
    --num-gpus=0 --object-store-memory=536870912 "$@" &
  steps+=($!)
}

start "${nodes[0]}" --head --port="$port" --node-ip-address="$head_ip" --include-dashboard=false \
  --num-cpus=0 --memory=419430400
for ((n = 0; n < ${#kinds[@]}; n++)); do
  case ${kinds[n]} in
    jetson-nano)
      options=(--num-cpus=2 --memory=1286602752 --resources='{"device:jetson-nano": 2}' --labels=fedknow.io/device=jetson-nano)
      ;;
    jetson-xavier-nx)
      options=(--num-cpus=2 --memory=1286602752 --resources='{"device:jetson-xavier-nx": 2}' --labels=fedknow.io/device=jetson-xavier-nx)
      ;;
    jetson-agx-xavier)
      options=(--num-cpus=2 --memory=1286602752 --resources='{"device:jetson-agx-xavier": 2}' --labels=fedknow.io/device=jetson-agx-xavier)
      ;;
    raspberry-pi-4-4gb)
      options=(--num-cpus=2 --memory=1286602752 --resources='{"device:raspberry-pi-4-4gb": 2}' --labels=fedknow.io/device=raspberry-pi-4-4gb)
      ;;
  esac
  start "${nodes[n + 1]}" --address="$head_ip:$port" "${options[@]}"
done

# until all of the fleet has a place
fedknow-ray doctor configs/quickstart.yaml --address "$head_ip:$port" --wait 300

if [ $# -eq 0 ]; then
  set -- fedknow-ray run configs/quickstart.yaml --out "runs/quickstart-$SLURM_JOB_ID"
fi
# in the background, so that a signal two minutes before the time is up reaches it
"$@" --address "$head_ip:$port" --quiet --json &
running=$! status=0
wait "$running" || status=$?
running=
exit "$status"
