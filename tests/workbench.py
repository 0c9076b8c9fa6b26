"""A small network, training settings and data for the tests: everything that a visit needs, in milliseconds.

`TINY` is a convolution and a linear layer with dropout (275 weights on 8 x 8 images of one channel), `DRY` the same
without dropout, `NORMED` has batch normalisation. `Bench` makes visits of one method as `federation.visit` does.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fedknow_ray.config.model import AdamOptimizer, SgdOptimizer, TrainingConfig
from fedknow_ray.federation.visit import SharedModel, VisitKind, VisitOrder, VisitReport, make_visit
from fedknow_ray.methods.catalogue import METHODS
from fedknow_ray.methods.costs import StepCosts
from fedknow_ray.methods.learner import Learner, Normalisation
from fedknow_ray.methods.method import ClientState, Method, TaskData, VisitFacts
from fedknow_ray.models.catalogue import ModelSpec
from fedknow_ray.models.footprint import measure_footprint
from fedknow_ray.models.network import FlatNetwork, initial_model
from fedknow_ray.simulation.work import Step, Work

# The bits of sums depend on the number of threads, and this machine is shared.
torch.set_num_threads(1)

SIDE, CHANNELS, CLASSES = 8, 1, 2
SIZE: dict[str, int] = {"height": SIDE, "width": SIDE, "channels": CHANNELS}

#: The values of FedKNOW's `integration`.
INTEGRATIONS = ("projection", "preconditioned", "sum_then_projection", "sum", "feature_projection")


class SmallFeatures(nn.Module):
    """conv 3x3 to 3 channels, ReLU, pooling, linear to 5, ReLU, dropout after the linear layer."""

    def __init__(self, height: int, width: int, channels: int, *, dropout: float, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3) if norm else nn.Identity()
        self.linear = nn.Linear(3 * (height // 2) * (width // 2), 5)
        self.dropout = dropout

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.conv(x_NCHW))), 2)
        return F.dropout(F.relu(self.linear(x.flatten(1))), self.dropout, self.training)


def _spec(name: str, *, dropout: float, norm: bool = False) -> ModelSpec:
    return ModelSpec(name, "small_cnn", 4, 64, partial(SmallFeatures, dropout=dropout, norm=norm))


TINY, DRY, NORMED = _spec("tiny", dropout=0.25), _spec("dry", dropout=0.0), _spec("normed", dropout=0.25, norm=True)

ADAM = AdamOptimizer(lr=0.01, lr_decay=0.1, weight_decay=0.01)
SGD = SgdOptimizer(lr=0.1, momentum=0.9, lr_decay=0.1, weight_decay=0.01)


def training(**changes: Any) -> TrainingConfig:
    return TrainingConfig(**{"local_epochs": 2, "batch_size": 8, "rounds_per_task": 2, "optimizer": ADAM, **changes})


def task_data(seed: int = 0, *, images: int = 20, task_index: int = 0, classes: int = CLASSES) -> TaskData:
    """Random images of a client's task, with the rows of this task and of those before it."""
    rng = np.random.default_rng(seed)
    rows = [range(t * classes, (t + 1) * classes) for t in range(task_index + 1)]
    return TaskData(
        images_NHWC=rng.integers(0, 256, (images, SIDE, SIDE, CHANNELS), dtype=np.uint8),
        labels_N=rng.integers(0, classes, images),
        rows=rows[-1],
        past_rows=tuple(rows[:-1]),
    )


def make_learner(spec: ModelSpec = TINY, config: TrainingConfig | None = None, seed: int = 0) -> Learner:
    """A learner whose network holds seeded weights and head rows."""
    config = config or training()
    network = FlatNetwork(spec, **SIZE, rows=CLASSES)
    features_S, head_CF = initial_model(spec, **SIZE, classes=CLASSES, seed=seed)
    network.load(features_S, head_CF)
    learner = Learner(
        network, config, StepCosts(measure_footprint(spec, **SIZE), config), Normalisation.of((0.5,), (0.25,))
    )
    learner.begin(np.random.default_rng(seed))
    return learner


def twin_of(learner: Learner, spec: ModelSpec, state_S: NDArray[np.float32] | None = None) -> nn.Module:
    """An ordinary module with the weights of the learner's network, or of another state of it."""
    network = learner.network
    flat = torch.tensor(network.state() if state_S is None else state_S)
    module = spec.build(SIDE, SIDE, CHANNELS)
    with torch.no_grad():
        for (name, parameter), stored in zip(
            module.named_parameters(), network.as_tensors(flat[: network.P]).items(), strict=True
        ):
            assert stored[0] == name
            parameter.copy_(stored[1])
        start = network.P
        for buffer in (b for b in module.buffers() if b.is_floating_point()):
            buffer.copy_(flat[start : start + buffer.numel()].view(buffer.shape))
            start += buffer.numel()
    return module


def flat_gradient(network: FlatNetwork, module: nn.Module) -> Tensor:
    """The gradients of an ordinary module in the order of the flat vector."""
    out_P = torch.zeros(network.P)
    network.write_gradients(tuple(p.grad for p in module.parameters() if p.grad is not None), out_P)
    return out_P


def steps_of(work: Work) -> Counter[tuple[str, int, int] | Step]:
    """Work without regard to order: how many steps of each phase and size; a step without storage has three parts."""
    counts: Counter[tuple[str, int, int] | Step] = Counter()
    for item in work.items:
        counts[item.step if item.stored_bytes else item.step[:3]] += item.count
    return counts


@dataclass
class Bench:
    """One method and its clients on `TINY`, or another network; visits change the clients' states."""

    name: str
    hyper: dict[str, Any] = field(default_factory=dict)
    config: TrainingConfig = field(default_factory=training)
    spec: ModelSpec = TINY
    tasks: int = 4
    images: int = 20
    head_global: bool = False

    def __post_init__(self) -> None:
        kind = METHODS.get(self.name)
        costs = StepCosts(measure_footprint(self.spec, **SIZE), self.config)
        self.method: Method = kind(kind.hyperparameters(**self.hyper), self.config, costs)
        self.learner = make_learner(self.spec, self.config)
        features_S, head_CF = initial_model(self.spec, **SIZE, classes=self.tasks * CLASSES, seed=5)
        self.head_CF = head_CF
        served = {name: np.zeros(shape, np.float32) for name, shape in self.method.served_shapes.items()}
        self.broadcast = SharedModel(features_S, head_CF if self.head_global else None, served)
        self.states: dict[int, ClientState] = {}

    def state(self, client_id: int = 0) -> ClientState:
        return self.states.setdefault(client_id, ClientState(self.head_CF))

    def order(
        self,
        kind: VisitKind,
        task_index: int = 0,
        *,
        client_id: int = 0,
        round_index: int = 0,
        trained: bool = False,
        **evicted: int,
    ) -> VisitOrder:
        """*evicted*: `evicted_tasks` and `newly_evicted` of the facts, if not 0."""
        past = (self.images,) * task_index
        facts = VisitFacts(
            client_id, task_index, round_index, self.images, CLASSES, trained, past_images=past, **evicted
        )
        return VisitOrder(kind, facts, seed=1)

    def data(self, order: VisitOrder) -> TaskData:
        data = self._data(order.client_id, order.facts.task_index)
        if not self.method.sees_past_data:
            return data
        past = tuple(self._data(order.client_id, task_index) for task_index in range(order.facts.task_index))
        return replace(data, past=past)

    def _data(self, client_id: int, task_index: int) -> TaskData:
        return task_data(100 * client_id + task_index, images=self.images, task_index=task_index)

    def visit(
        self, kind: VisitKind, task_index: int = 0, **where: Any
    ) -> tuple[VisitOrder, SharedModel | None, VisitReport]:
        order = self.order(kind, task_index, **where)
        state, update, report = make_visit(
            order, self.method, self.learner, self.state(order.client_id), self.broadcast, self.data(order)
        )
        self.states[order.client_id] = state
        return order, update, report

    def live_through(self, tasks: int, client_id: int = 0) -> list[tuple[VisitOrder, VisitReport]]:
        """Make every kind of visit of so many tasks; in the last one the client is never sampled."""
        done = []
        for task_index in range(tasks):
            sampled = task_index < tasks - 1
            for round_index in range(2 if sampled else 0):
                kinds = [VisitKind.TRAIN, VisitKind.REFINE] if self.method.refines else [VisitKind.TRAIN]
                for kind in kinds:
                    trained = round_index > 0 or kind is VisitKind.REFINE
                    order, _, report = self.visit(
                        kind, task_index, client_id=client_id, round_index=round_index, trained=trained
                    )
                    done.append((order, report))
            order, _, report = self.visit(
                VisitKind.FINISH_TASK, task_index, client_id=client_id, round_index=2, trained=sampled
            )
            done.append((order, report))
        return done
