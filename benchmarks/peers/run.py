"""Our simulator on the fixed work of the peers' folder, through the same pieces as a run: actors, payloads, tables.

    python benchmarks/peers/run.py w1-20                     Ray: packed client actors and a server actor
    python benchmarks/peers/run.py w1-20 --backend local     one process

The work (model, data, order of batches, cohorts) comes from `workload` in the folder that FEDKNOW_PEERS names
(`../shared/peers` beside this repository where it is not set). Every round's tables are flushed to the disk before the
round counts as done. The run stops after the last round: no end of the task, no scores, as with the peers.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

PEERS = Path(os.environ.get("FEDKNOW_PEERS", Path(__file__).resolve().parents[3] / "shared" / "peers")).resolve()
sys.path.insert(0, str(PEERS))
import workload  # noqa: E402

from fedknow_ray.config.loading import dump_yaml  # noqa: E402
from fedknow_ray.config.model import (  # noqa: E402
    AdamOptimizer,
    FleetEntry,
    MethodConfig,
    ModelConfig,
    PlacementConfig,
    RunConfig,
    ScenarioConfig,
    SgdOptimizer,
    SynchronousPolicy,
    TrainingConfig,
)
from fedknow_ray.experiment.assembly import Parts, make_parts  # noqa: E402
from fedknow_ray.experiment.manifest import make_manifest  # noqa: E402
from fedknow_ray.experiment.place import Place, open_executor  # noqa: E402
from fedknow_ray.federation.scheduler import Scheduler  # noqa: E402
from fedknow_ray.federation.visit import SharedModel  # noqa: E402
from fedknow_ray.federation.worker import Assembly  # noqa: E402
from fedknow_ray.methods.fedavg import FedAvg  # noqa: E402
from fedknow_ray.methods.method import Hyperparameters  # noqa: E402
from fedknow_ray.models.catalogue import ModelSpec  # noqa: E402
from fedknow_ray.models.network import FlatNetwork  # noqa: E402
from fedknow_ray.results.store import ResultStore, RunDirectory  # noqa: E402
from fedknow_ray.scenario.images import Dataset, DatasetInfo, ImageSet, build_dataset  # noqa: E402
from fedknow_ray.scenario.scenario import Scenario  # noqa: E402
from fedknow_ray.transport.payload import Buffer, decode  # noqa: E402

# Two actors where all clients visit. Where 8 of 20 do, halves of the clients would get 5 visits and 3, and one
# processor would wait; with thirds each processor gets 4.
ACTORS, ACTORS_FOR_COHORTS = 2, 3
SIZE = {"height": 32, "width": 32, "channels": 3}


def build_features(height: int, width: int, channels: int) -> torch.nn.Module:
    """Return the workload's network without its last linear layer, which is the head."""
    return workload.make_model()[:-1]


NETWORK = ModelSpec("peers-cnn", "small_cnn", minimum_size=32, maximum_size=32, build=build_features)


def make_config(work: workload.Workload) -> RunConfig:
    """Return the workload as a config: one task of all classes, batches in order, the whole model on the link."""
    actors = ACTORS if work.visits == work.clients else ACTORS_FOR_COHORTS
    make_optimizer = AdamOptimizer if work.optimizer == "adam" else SgdOptimizer
    return RunConfig(
        scenario=ScenarioConfig(
            dataset="peers", tasks=1, classes_per_task=workload.CLASSES, clients=work.clients, samples_per_client=None
        ),
        model=ModelConfig(name=NETWORK.name, head="global"),
        method=MethodConfig(name="fedavg", hyper=Hyperparameters()),
        training=TrainingConfig(
            rounds_per_task=work.rounds,
            client_fraction=work.visits / work.clients,
            local_epochs=work.epochs,
            batch_size=workload.BATCH,
            shuffle=False,
            optimizer=make_optimizer(lr=work.lr, lr_decay=0.0),
        ),
        fleet=(FleetEntry(device="jetson-nano", count=work.clients),),
        policy=SynchronousPolicy(cohorts=tuple(tuple(workload.cohort(work, r)) for r in range(work.rounds))),
        placement=PlacementConfig(clients_per_actor=-(-work.clients // actors)),
    )


def make_dataset(work: workload.Workload) -> Dataset:
    """Return all clients' images, client after client, as float32; the one test image is never looked at."""
    images, labels = zip(*(workload.client_data(client, work.samples) for client in range(work.clients)), strict=True)
    images_NHWC = torch.cat(images).permute(0, 2, 3, 1).contiguous().numpy()
    train = ImageSet(images_NHWC, torch.cat(labels).numpy())
    test = ImageSet(images_NHWC[:1].copy(), train.labels[:1].copy())
    info = DatasetInfo("peers", classes=workload.CLASSES, **SIZE)
    return build_dataset(info, tuple(map(str, range(workload.CLASSES))), train, test)


def make_scenario(work: workload.Workload) -> Scenario:
    """Return the scenario in which each client holds its own images, in their order."""
    own = np.arange(work.clients * work.samples).reshape(work.clients, 1, work.samples)
    return Scenario(
        tasks=1,
        classes_per_task=workload.CLASSES,
        clients=work.clients,
        label_to_row=np.arange(workload.CLASSES),
        sequences=((0,),) * work.clients,
        train_by_task=tuple(map(tuple, own)),
        test_by_task=((np.zeros(1, np.int64),),) * work.clients,
    )


def make_work(work: workload.Workload) -> Parts:
    """Return the parts of a run that starts from the workload's own initial weights."""
    last = workload.make_model()[-1]
    head_CF = torch.cat([last.weight, last.bias[:, None]], dim=1).detach().numpy()
    features_S = FlatNetwork(NETWORK, **SIZE, rows=1).state()
    assembly = Assembly(make_config(work), NETWORK, FedAvg, make_scenario(work), **SIZE)
    return make_parts(assembly, make_dataset(work), features_S, head_CF)


def parameters_of(payload: Buffer) -> Iterable[torch.Tensor]:
    """Yield a payload's weights in the shapes and the order of `workload.make_model().parameters()`."""
    model = SharedModel.of(decode(payload))
    yield from FlatNetwork(NETWORK, **SIZE, rows=1).as_tensors(torch.tensor(model.features_S)).values()
    head_CF = torch.tensor(model.head_CF)
    yield from (head_CF[:, :-1], head_CF[:, -1])


class Announced:
    """An executor that announces the first report of a run."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def report(self, order: Any) -> Any:
        report = self._executor.report(order)
        workload.mark_first_result()
        return report


def run(work: workload.Workload, backend: str, out: Path) -> float:
    """Do the workload, write its tables into a new folder, and return the digest of the final weights."""
    parts = make_work(work)
    directory = RunDirectory.create(out)
    with open_executor(parts, Place(backend)) as executor:
        config = parts.assembly.config
        directory.write_config(dump_yaml(config))
        directory.write_manifest(
            make_manifest(work.name, config, parts.dataset, parts.start, parts.ledger.devices, backend, 0)
        )
        store = ResultStore(directory)
        store.append(executor.placement())
        scheduler = Scheduler(
            parts.course, parts.ledger, parts.make_policy(), parts.conditions, Announced(executor), store.append
        )
        workload.emit("begin")
        for progress in scheduler.run():
            store.flush()
            workload.emit("round")
            if progress.rounds_done == progress.rounds_total:
                break
        digest = workload.digest(parameters_of(executor.global_model()))
    workload.emit("end", digest=digest)
    return digest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workload", choices=workload.WORKLOADS)
    parser.add_argument("--backend", choices=["ray", "local"], default="ray")
    parser.add_argument("--out", type=Path, help="keep the tables in this folder (default: thrown away)")
    args = parser.parse_args()
    # the client actors build the network, and import the workload's module for it
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PEERS), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory(prefix="fkr-peers-") as folder:
        digest = run(workload.WORKLOADS[args.workload], args.backend, args.out or Path(folder) / "run")
    print(f"{args.workload} ({args.backend}): digest {digest:.6f}")


if __name__ == "__main__":
    main()
