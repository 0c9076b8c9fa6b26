"""Laws that several methods share: the limit in which one is FedAvg, and a quadratic loss of two weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode
from workbench import DRY, NORMED, Bench, make_learner, steps_of, task_data, training

from fedknow_ray.config.model import AdamOptimizer, SgdOptimizer
from fedknow_ray.federation.visit import VisitKind, plan_visit
from fedknow_ray.methods.learner import Batch, Learner
from fedknow_ray.methods.method import ClientState, VisitFacts

#: The loss is 1/2 (w - LOW)' CURVATURE (w - LOW) of the first two weights.
CURVATURE = np.array([[2.0, 0.5], [0.5, 1.0]])
LOW = np.array([1.0, -2.0])


def life(name: str, hyper: dict[str, Any], tasks: int = 3, **settings: Any) -> list[Any]:
    """Return all that a client's visits leave, to the bit, one after another: weights, head, losses, work."""
    bench, left = Bench(name, hyper, spec=NORMED, **settings), []
    for task_index in range(tasks):
        for kind, trained in ((VisitKind.TRAIN, False), (VisitKind.TRAIN, True), (VisitKind.FINISH_TASK, True)):
            _, update, report = bench.visit(kind, task_index, trained=trained)
            state = bench.state()
            assert state.own_S is not None
            sent = None if update is None else update.features_S.tobytes()
            left.append((state.own_S.tobytes(), state.head_CF.tobytes(), sent, report.loss, steps_of(report.work)))
    return left


def is_fedavg_to_the_bit(name: str, hyper: dict[str, Any]) -> None:
    """Weights, losses, work, memory: a method whose term is off costs nothing either."""
    assert life(name, hyper) == life("fedavg", {})
    bench, fedavg = Bench(name, hyper), Bench("fedavg")
    bench.live_through(3)
    assert bench.state().memory is None
    for task_index in range(3):
        facts = fedavg.order(VisitKind.TRAIN, task_index).facts
        assert bench.method.plan_train(facts) == fedavg.method.plan_train(facts)
        assert bench.method.plan_finish(facts) == fedavg.method.plan_finish(facts)
        assert bench.method.kept_bytes(facts) == 0


def quadratic_rule(learner: Learner, batch: Batch) -> float:
    """Stands in for cross entropy; the work is that of cross entropy."""
    two = learner.network.theta[:2].double().numpy()
    learner.network.grad.zero_()
    learner.network.grad[:2] = torch.tensor(CURVATURE @ (two - LOW))
    learner.log.add(learner.costs.forward_backward("train", len(batch.y_N), learner.network.rows))
    return 0.0


def optimum(start_2: NDArray[np.float64], hold_2: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where the loss + 1/2 sum_j hold_j (w_j - start_j)^2 is least: (H + K) w = H low + K start."""
    K = np.diag(hold_2)
    return np.linalg.solve(CURVATURE + K, CURVATURE @ LOW + K @ start_2)


def trained_on_the_quadratic(
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    name: str,
    hyper: dict[str, Any],
    *,
    memory: Any = None,
    optimizer: AdamOptimizer | SgdOptimizer | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], Learner]:
    """Return the first two weights before and after a training visit of a second task of 1200 steps."""
    monkeypatch.setattr(f"{module}.cross_entropy_rule", quadratic_rule)
    config = training(local_epochs=400, optimizer=optimizer or SgdOptimizer(lr=0.2))
    bench, learner = Bench(name, hyper, config=config), make_learner(config=config)
    start = learner.network.theta.clone()
    facts = VisitFacts(0, 1, 0, images=20, classes=2, trained_this_task=False)
    bench.method.train(learner, ClientState(bench.head_CF, memory=memory), task_data(task_index=1), facts)
    assert torch.equal(learner.network.theta[2:], start[2:]), "the others have no gradient and are where they were"
    return start[:2].double().numpy(), learner.network.theta[:2].double().numpy(), learner


def flops_are_those_that_torch_counts(name: str, hyper: dict[str, Any], tasks: int = 3) -> None:
    """Of each visit of a client's life: every product of it, none forgotten, none invented."""
    bench, own = Bench(name, hyper, spec=DRY), []
    for task_index in range(tasks):
        for kind, trained in ((VisitKind.TRAIN, False), (VisitKind.TRAIN, True), (VisitKind.FINISH_TASK, True)):
            with FlopCounterMode(display=False) as counter:
                order, _, _ = bench.visit(kind, task_index, trained=trained)
            own.append((counter.get_total_flops(), plan_visit(order, bench.method).work.flops))
    assert [counted for counted, _ in own] == [planned for _, planned in own]
