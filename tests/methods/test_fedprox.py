"""FedProx: its term, its optimum, and FedAvg where there is no term."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from laws import is_fedavg_to_the_bit, life, optimum, trained_on_the_quadratic
from pydantic import ValidationError
from workbench import DRY, Bench, steps_of

from fedknow_ray.config.model import SgdOptimizer
from fedknow_ray.federation.visit import VisitKind, plan_visit
from fedknow_ray.methods.fedprox import FedProxSettings
from fedknow_ray.simulation.work import WorkItem

MODULE = "fedknow_ray.methods.fedprox"


@pytest.mark.parametrize("wrong", [{"mu": -0.1}, {"mu": float("inf")}, {"nu": 1.0}], ids=str)
def test_other_settings_are_refused(wrong: dict[str, float]):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        FedProxSettings(**wrong)


def test_without_a_term_it_is_fedavg_to_the_bit():
    is_fedavg_to_the_bit("fedprox", {"mu": 0.0})


def test_with_one_it_is_not():
    assert life("fedprox", {"mu": 0.1})[0][0] != life("fedavg", {})[0][0]


@pytest.mark.parametrize("mu", [0.1, 1.0, 4.0])
def test_the_optimum_of_a_quadratic_is_the_closed_form(mu: float, monkeypatch: pytest.MonkeyPatch):
    start_2, end_2, _ = trained_on_the_quadratic(monkeypatch, MODULE, "fedprox", {"mu": mu})
    np.testing.assert_allclose(end_2, optimum(start_2, np.full(2, mu)), atol=1e-5)


def test_the_second_step_is_pulled_back_to_the_start():
    """One image, two steps: the term is 0 in the first and mu times the way that step went in the second."""
    ways = []
    for mu in (0.0, 0.5):
        config = Bench("fedprox").config.model_copy(
            update={"local_epochs": 2, "optimizer": SgdOptimizer(lr=0.1, lr_decay=0), "batch_size": 1}
        )
        bench = Bench("fedprox", {"mu": mu}, config=config, spec=DRY, images=1)
        bench.visit(VisitKind.TRAIN)
        ways.append(torch.tensor(bench.state().own_S))
    once = Bench("fedavg", config=config.model_copy(update={"local_epochs": 1}), spec=DRY, images=1)
    once.visit(VisitKind.TRAIN)
    first_step_P = torch.tensor(once.state().own_S) - torch.tensor(once.broadcast.features_S)
    np.testing.assert_allclose(ways[1] - ways[0], -0.1 * 0.5 * first_step_P, atol=1e-7)


def test_a_step_reads_and_writes_four_vectors_of_weights_more():
    """275 weights of 4 bytes; 3 batches of 2 epochs."""
    bench, fedavg = Bench("fedprox"), Bench("fedavg")
    order = bench.order(VisitKind.TRAIN)
    plan, plain = plan_visit(order, bench.method), plan_visit(order, fedavg.method)
    added = steps_of(plan.work) - steps_of(plain.work)
    assert added == {WorkItem("proximal", 1, 0, 4 * 275 * 4).step[:3]: 6}
    assert plan.peak_memory_bytes - plain.peak_memory_bytes == 2 * 275 * 4
