#!/bin/sh
# The experiments of docs/results/fedknow.md. All of them take about 8 hours on two cores; what was interrupted goes on
# where it was.
#
#   sh benchmarks/fedknow_experiments.sh DATA OUT NAME...     DATA holds cifar100-*.parquet
#   python benchmarks/comparison_rows.py OUT/FOLDER           prints a comparison's tables
#
# headline, ten_tasks, growth, choice and variants each make a comparison OUT/NAME. The others add their cases to
# OUT/mini (integration, head, received, precision) or OUT/micro (the rest), so that they share FedAvg, local training
# and what their cases have in common with the others'. mini is in bfloat16, which takes a processor that has it.
set -eu
data=$1 out=$2
shift 2

compare() { # compare FOLDER CONFIG OPTION...
    folder=$out/$1 config=configs/$2.yaml
    shift 2
    python -m fedknow_ray compare "$config" --set "scenario.data_root=$data" --out "$folder" "$@"
}

# The knowledge and the own model as the paper has them, no second use: what a setting changes is seen by itself.
plain() { # plain FOLDER CONFIG OPTION...
    compare "$@" --set method.second_use=off --set method.own_model=last_visit \
        --set method.stored_bits=32 --set method.retained_fraction=0.1 --set method.retrain_epochs=2
}
mini() { plain mini cifar100-mini --seeds 3 "$@"; }
micro() { plain micro cifar100-micro --seeds 5 "$@"; }

for name in "$@"; do
    case $name in
    headline)
        compare "$name" cifar100-small --methods fedavg,fedknow --vary method.own_model=last_visit,final --seeds 3 \
            --set training.precision=bfloat16
        ;;
    ten_tasks)
        compare "$name" cifar100 --methods fedavg,fedknow --seeds 2 --set training.rounds_per_task=8 \
            --set training.precision=bfloat16 --set method.own_model=final
        ;;
    growth) # of the cost with the number of past tasks; nothing is learnt in one round
        compare "$name" cifar100-mini --methods fedavg,fedknow --vary method.variant=tuned,paper --seeds 1 \
            --set scenario.tasks=10 --set training.rounds_per_task=1
        ;;
    choice)
        compare "$name" cifar100-micro --methods fedknow --seeds 5 --set scenario.tasks=5 --set method.signature_tasks=2 \
            --vary method.selection=wasserstein,wasserstein_sorted,cosine,oldest,random
        ;;
    variants)
        compare "$name" cifar100-micro --methods fedavg,fedknow,local --seeds 5 \
            --vary method.variant=tuned,paper,authors_code
        ;;
    integration)
        mini --methods fedavg,fedknow \
            --vary method.integration=projection,preconditioned,sum_then_projection,sum,feature_projection
        ;;
    head)
        mini --methods fedavg,fedknow --vary model.head=global --vary method.integration=projection,sum
        ;;
    optimizer)
        micro --methods fedavg,fedknow --vary method.integration=projection,sum \
            --vary "training.optimizer={name: sgd, lr: 0.05}"
        ;;
    precision)
        mini --methods fedavg,fedknow --vary method.integration=sum --vary training.precision=float32
        ;;
    received)
        mini --methods local,fedavg,fedknow --vary method.integration=projection --vary method.second_use=on_receive
        ;;
    second_use)
        micro --methods fedavg,local,fedknow --vary method.integration=projection \
            --vary method.second_use=displacement,after_aggregation
        ;;
    projection)
        micro --methods fedknow --vary method.integration=projection \
            --each method.margin=0.5 --each method.past_heads=trained
        ;;
    knowledge)
        micro --methods fedknow --vary method.integration=sum \
            --each method.retained_fraction=0.05,0.2,1.0 --each method.threshold=layer --each method.masks=disjoint \
            --each method.retrain_epochs=0,4 --each method.temperature=1.0,4.0 --each method.labels=hard \
            --each method.past_heads=trained
        ;;
    weight)
        micro --methods fedknow --vary method.integration=sum --each method.restored_weight=0.5,2.0
        ;;
    bits)
        micro --methods fedknow --vary method.integration=sum --vary method.retained_fraction=1.0 \
            --vary method.retrain_epochs=0 --vary method.stored_bits=4,8,32
        ;;
    *)
        echo "no experiment is named $name" >&2
        exit 2
        ;;
    esac
done
