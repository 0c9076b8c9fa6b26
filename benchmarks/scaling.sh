#!/bin/sh
# The grid of docs/results/scaling.md: FedAvg and FedKNOW with 8 to 64 clients and 4 to 16 tasks of CIFAR-100, 24 runs.
# It takes 42 minutes on two cores with other work beside it; what was interrupted goes on where it was.
#
#   sh benchmarks/scaling.sh DATA OUT       DATA holds cifar100-*.parquet; the grid lies in OUT, its page is scale.html
#   python benchmarks/scaling_rows.py OUT   prints its tables
#
# 16 tasks of 6 classes are 96 of the 100. At 64 clients a client has 45 or more training images of a task, so with a
# limit of 40 all clients have as many at every point, and what changes is their number alone. Each client visits twice
# a task in the mean: a quarter of them in each of 8 rounds.
set -eu
data=$1 out=$2
shift 2

python -m fedknow_ray scale configs/cifar100-micro.yaml --clients 8,16,32,64 --tasks 4,8,16 --methods fedavg,fedknow \
    --set "scenario.data_root=$data" --set scenario.classes_per_task=6 \
    --set scenario.partition.shards_per_client=3 --set scenario.samples_per_client=40 \
    --set training.rounds_per_task=8 --set training.client_fraction=0.25 --set training.local_epochs=4 \
    --set training.batch_size=20 --set method.own_model=final --out "$out" "$@"
