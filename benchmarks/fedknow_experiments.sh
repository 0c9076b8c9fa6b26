#!/bin/sh
# The experiments of docs/results/fedknow.md, one comparison each. All of them take about 6 hours on two cores; one that
# was interrupted goes on where it was.
#
#   sh benchmarks/fedknow_experiments.sh DATA OUT NAME...     DATA holds cifar100-*.parquet; each NAME becomes OUT/NAME
#   python benchmarks/comparison_rows.py OUT/NAME             prints its tables
set -eu
data=$1 out=$2
shift 2

compare() { # compare NAME CONFIG OPTION...
    folder=$out/$1 config=configs/$2.yaml
    shift 2
    python -m fedknow_ray compare "$config" --set "scenario.data_root=$data" --out "$folder" "$@"
}

# The knowledge and the own model as the paper has them, no second use: what a setting changes is seen by itself.
plain="--set method.second_use=off --set method.own_model=last_visit --set method.stored_bits=32
    --set method.retained_fraction=0.1 --set method.retrain_epochs=2"
bf16="--set training.precision=bfloat16"

for name in "$@"; do
    case $name in
    headline)
        compare "$name" cifar100-small --methods fedavg,fedknow --vary method.own_model=last_visit,final --seeds 3 $bf16
        ;;
    precision)
        compare "$name" cifar100-mini --methods fedavg,fedknow --vary training.precision=float32,bfloat16 --seeds 3 \
            --set scenario.tasks=2
        ;;
    head)
        compare "$name" cifar100-mini --methods fedavg,fedknow,local --vary model.head=local,global --seeds 3 \
            --set method.variant=paper
        ;;
    second_use)
        compare "$name" cifar100-mini --methods fedknow,local --set method.variant=paper --seeds 3 \
            --vary method.second_use=off,on_receive,after_aggregation,displacement
        ;;
    integration)
        compare "$name" cifar100-mini --methods fedavg,fedknow $plain --seeds 3 \
            --vary method.integration=projection,preconditioned,sum_then_projection,sum,feature_projection
        ;;
    projection)
        compare "$name" cifar100-mini --methods fedknow $plain --set method.integration=projection --seeds 3 \
            --each method.margin=0.5 --each method.past_heads=trained
        ;;
    optimizer)
        compare "$name" cifar100-mini --methods fedavg,fedknow $plain --seeds 3 \
            --vary method.integration=projection,sum \
            --vary "training.optimizer={name: adam},{name: sgd, lr: 0.05}"
        ;;
    knowledge)
        compare "$name" cifar100-mini --methods fedknow $plain --seeds 3 \
            --each method.retained_fraction=0.05,0.2,1.0 --each method.threshold=layer --each method.masks=disjoint \
            --each method.retrain_epochs=0,4 --each method.temperature=1.0,4.0 --each method.labels=hard \
            --each method.past_heads=trained --each method.restored_weight=0.5,2.0
        ;;
    bits)
        compare "$name" cifar100-mini --methods fedknow --seeds 3 --each method.stored_bits=8,32
        ;;
    choice)
        compare "$name" cifar100-mini --methods fedknow --seeds 3 --set scenario.tasks=5 --set method.signature_tasks=2 \
            --vary method.selection=wasserstein,wasserstein_sorted,cosine,oldest,random
        ;;
    choice_paper)
        compare "$name" cifar100-mini --methods fedknow $plain --seeds 3 --set scenario.tasks=5 \
            --set method.signature_tasks=2 --set method.integration=projection \
            --vary method.selection=wasserstein,wasserstein_sorted,cosine,oldest,random
        ;;
    variants)
        compare "$name" cifar100-mini --methods fedavg,fedknow,local --seeds 3 \
            --vary method.variant=tuned,paper,authors_code
        ;;
    ten_tasks)
        compare "$name" cifar100 --methods fedavg,fedknow --seeds 2 --set training.rounds_per_task=8 $bf16 \
            --set method.own_model=final
        ;;
    ten_tasks_paper)
        compare "$name" cifar100 --methods fedknow --set method.variant=paper --seeds 2 \
            --set training.rounds_per_task=8 $bf16
        ;;
    *)
        echo "no experiment is named $name" >&2
        exit 2
        ;;
    esac
done
