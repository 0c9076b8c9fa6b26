"""One client's part in one round: (client state, broadcast, order) -> (client state, update, report).

`train`: loads the broadcast (without federation the client's own weights), lets the method train, and sends the update.
`refine`: right after aggregation, for methods that ask for it; loads the aggregate, trains it further, sends nothing.
`finish_task`: every client, at the end of a task; downloads the final features, lets a client that was never sampled in
the task train its head on them, evaluates its own model on its test images of all learnt tasks, and lets the method
keep its knowledge of the task. Nothing is sent.

A client's *own model* is its features after its last training visit with its own head; a client that was never sampled
in a task takes the final features of the task as its own, and so do all where the method says so (`own_is_final`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedknow_ray.errors import DivergenceError
from fedknow_ray.methods.method import ClientState, Method, Outcome, Plan, TaskData, VisitFacts
from fedknow_ray.seeding import derive_seed, stream, torch_stream
from fedknow_ray.simulation.work import Work
from fedknow_ray.transport.compression import FLOAT_BYTES
from fedknow_ray.transport.payload import Buffer, Shapes, decode, encode
from fedknow_ray.transport.update_layout import FEATURES, HEAD, SERVED

if TYPE_CHECKING:
    from fedknow_ray.methods.learner import Learner


class VisitKind(StrEnum):
    """What a visit is for."""

    TRAIN = "train"
    REFINE = "refine"
    FINISH_TASK = "finish_task"


@dataclass(frozen=True, slots=True)
class VisitOrder:
    """One visit to make, as the scheduler asks for it; all randomness follows from *seed* and the three indices."""

    kind: VisitKind
    facts: VisitFacts
    seed: int

    @property
    def client_id(self) -> int:
        """The client that is asked."""
        return self.facts.client_id

    @property
    def indices(self) -> dict[str, int | str]:
        """Where in a run it is, beside its client, as the table of events has it."""
        return {
            "task_index": self.facts.task_index,
            "round_index": self.facts.round_index,
            "kind": str(self.kind),
        }


@dataclass(frozen=True, slots=True)
class VisitReport:
    """What the driver learns of a visit: counted work and figures, no tensors.

    *refusal* why the server did not take the update; None where it did, or nothing was sent.
    """

    work: Work
    loss: float | None
    integrated_steps: int | None
    violated_steps: int | None
    download_bytes: int = 0
    upload_bytes: int = 0
    host_wall_s: float = 0.0
    host_cpu_s: float = 0.0
    notes: Mapping[str, float] = field(default_factory=dict)
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class SharedModel:
    """What crosses the link both ways: the features (S,), and with a global head the whole head (C, F + 1).

    *served* goes down only: what the method's server part sends beside the model.
    """

    features_S: NDArray[np.float32]
    head_CF: NDArray[np.float32] | None
    served: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return the model as the arrays of a payload."""
        arrays = {FEATURES: self.features_S}
        return arrays if self.head_CF is None else {**arrays, HEAD: self.head_CF}

    def payload(self) -> Buffer:
        """Return it encoded, with what is served."""
        return encode({**self.arrays(), **{SERVED + name: array for name, array in self.served.items()}})

    @staticmethod
    def of(arrays: Mapping[str, NDArray[np.float32]]) -> SharedModel:
        """Return the model that a decoded payload holds."""
        served = {name.removeprefix(SERVED): array for name, array in arrays.items() if name.startswith(SERVED)}
        return SharedModel(arrays[FEATURES], arrays.get(HEAD), served)


def first_broadcast(model: SharedModel, method: Method) -> Buffer:
    """Return a broadcast of a model that the method's server part has not seen: what it sends is all zeros."""
    zeros = {name: np.zeros(shape, np.float32) for name, shape in method.served_shapes.items()}
    return replace(model, served=zeros).payload()


def begun_anew(broadcast: Buffer, method: Method) -> Buffer:
    """Return the broadcast of another method's run as one that this method can begin with."""
    return first_broadcast(SharedModel.of(decode(broadcast)), method)


def shared_shapes(S: int, classes: int, F: int, *, head_global: bool) -> Shapes:
    """Return the shapes of a model's payload, from which its length is known before it exists."""
    shapes: dict[str, tuple[tuple[int, ...], str]] = {FEATURES: ((S,), "float32")}
    return {**shapes, HEAD: ((classes, F + 1), "float32")} if head_global else shapes


def served_shapes(method: Method) -> Shapes:
    """Return the shapes of what the method's server part adds to a broadcast."""
    return {SERVED + name: (shape, "float32") for name, shape in method.served_shapes.items()}


def place_of(order: VisitOrder) -> str:
    """Return how an error says which visit it is about."""
    facts = order.facts
    return f"client {facts.client_id}, task_index {facts.task_index}, round_index {facts.round_index}"


def plan_visit(order: VisitOrder, method: Method) -> Plan:
    """Return the work of a visit before it happens, and its memory; the work counted while it happens equals it."""
    plan = _plan_learning(order, method)
    # where nothing is downloaded, no payload takes room; where more than a model is, it takes more
    received_bytes = sum(FLOAT_BYTES * math.prod(shape) for shape in method.served_shapes.values())
    payload_bytes = received_bytes if method.federated else -method.costs.model_bytes
    return Plan(plan.work, plan.peak_memory_bytes + payload_bytes)


def _plan_learning(order: VisitOrder, method: Method) -> Plan:
    facts = order.facts
    if order.kind is VisitKind.TRAIN:
        return method.plan_train(facts)
    if order.kind is VisitKind.REFINE:
        return method.plan_refine(facts)
    plan, costs, keeps = method.plan_finish(facts), method.costs, _keeps_own(order, method)
    work = costs.evaluation(facts) + plan.work
    peak = max(plan.peak_memory_bytes, costs.ending_bytes(facts, trains_head=not keeps))
    return Plan(work if keeps else costs.head_training(facts) + work, peak)


def make_visit(
    order: VisitOrder, method: Method, learner: Learner, state: ClientState, broadcast: SharedModel, data: TaskData
) -> tuple[ClientState, SharedModel | None, VisitReport]:
    """Make one visit; return the client's new state, its update (None where nothing is sent), and the report.

    *data* has the training images of the client for the task; its `past_heads` and `served` are filled in here.

    Raises:
        DivergenceError: if training diverged; says where.
    """
    facts = order.facts
    where = {"client": facts.client_id, "task": facts.task_index, "round_index": facts.round_index}
    learner.begin(stream(order.seed, f"{order.kind}/order", **where))
    features_S, head_CF = _start(order, method, state, broadcast)
    learner.network.load(features_S, head_CF[data.rows.start : data.rows.stop])
    past_heads = tuple(head_CF[rows.start : rows.stop] for rows in data.past_rows)
    data = replace(data, past_heads=past_heads, served=broadcast.served)
    try:
        with torch_stream(derive_seed(order.seed, f"{order.kind}/torch", **where)):
            outcome, trained = _learn(order, method, learner, state, data)
    except DivergenceError as error:
        raise DivergenceError(f"{place_of(order)}: {error.args[0]}") from error
    if trained:
        head_CF = head_CF.copy()
        for rows, head_RF in zip(data.past_rows, outcome.past_heads or (), strict=False):
            head_CF[rows.start : rows.stop] = head_RF
        # last: where the task recurs, its rows are among the past ones
        head_CF[data.rows.start : data.rows.stop] = trained.head_RF
        state = replace(state, head_CF=head_CF, own_S=trained.own_S)
    update = None
    if order.kind is VisitKind.TRAIN and method.federated and trained:
        sent_S = trained.own_S if outcome.sent_S is None else outcome.sent_S
        update = SharedModel(sent_S, None if broadcast.head_CF is None else head_CF)
    return replace(state, memory=outcome.memory), update, _report(learner, outcome)


@dataclass(frozen=True, slots=True)
class _Trained:
    """The client's own model after a visit that changed it."""

    own_S: NDArray[np.float32]
    head_RF: NDArray[np.float32]


def _keeps_own(order: VisitOrder, method: Method) -> bool:
    """Return whether the end of a task leaves the client's own model as its last training visit did."""
    return not method.takes_final(order.facts)


def _start(
    order: VisitOrder, method: Method, state: ClientState, broadcast: SharedModel
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the features (S,) and the head (C, F + 1) that a visit starts from.

    Training starts from the broadcast; without federation from the client's own weights. The end of a task works on the
    client's own model if it was trained in this task and is to stay, else on the final features.
    """
    own = not method.federated or (order.kind is VisitKind.FINISH_TASK and _keeps_own(order, method))
    features_S = state.own_S if own and state.own_S is not None else broadcast.features_S
    head_CF = state.head_CF if own or broadcast.head_CF is None else broadcast.head_CF
    return features_S, head_CF


def _learn(
    order: VisitOrder, method: Method, learner: Learner, state: ClientState, data: TaskData
) -> tuple[Outcome, _Trained | None]:
    facts, network = order.facts, learner.network
    if order.kind is VisitKind.FINISH_TASK:
        # the own model is read before the method uses up the network for its knowledge
        keeps = _keeps_own(order, method)
        loss = None if keeps else learner.train_head(data)
        trained = None if keeps else _Trained(network.state(), network.head_rows())
        # the device evaluates; here the right answers are counted by `federation.scoring`, at once for all clients
        for item in learner.costs.evaluation(facts).items:
            learner.log.add(item)
        outcome = method.finish_task(learner, state, data, facts)
        return replace(outcome, loss=outcome.loss if loss is None else loss), trained
    act = method.train if order.kind is VisitKind.TRAIN else method.refine
    outcome = act(learner, state, data, facts)
    return outcome, _Trained(network.state(), network.head_rows())


def _report(learner: Learner, outcome: Outcome) -> VisitReport:
    return VisitReport(
        work=learner.log.work(),
        loss=outcome.loss,
        integrated_steps=outcome.integrated_steps,
        violated_steps=outcome.violated_steps,
        notes=outcome.notes,
    )
