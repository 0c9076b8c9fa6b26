"""FedRep: the head first, then the body, each while the other one rests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from workbench import ADAM, CLASSES, DRY, NORMED, SGD, Bench, steps_of, training, twin_of

from fedknow_ray.config import load_config
from fedknow_ray.config.model import SgdOptimizer
from fedknow_ray.errors import ConfigError
from fedknow_ray.experiment.catalogue import CATALOGUE
from fedknow_ray.federation.visit import VisitKind, plan_visit
from fedknow_ray.methods.fedrep import FedRepSettings

PLAIN = SgdOptimizer(lr=0.1, lr_decay=0.0)
QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"


@pytest.mark.parametrize(
    ("local_epochs", "head_epochs", "parts"),
    [(8, None, (4, 4)), (5, None, (2, 3)), (3, None, (1, 2)), (2, None, (1, 1)), (1, None, (1, 0)), (5, 4, (4, 1))],
)
def test_the_head_has_half_of_the_epochs_unless_told_otherwise(
    local_epochs: int, head_epochs: int | None, parts: tuple[int, int]
):
    assert FedRepSettings(head_epochs=head_epochs).parts(training(local_epochs=local_epochs)) == parts


@pytest.mark.parametrize("wrong", [{"head_epochs": 0}, {"head_epochs": 1.5}, {"mu": 0.1}], ids=str)
def test_other_settings_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        FedRepSettings(**wrong)


@pytest.mark.parametrize("optimizer", [ADAM, SGD], ids=["adam", "sgd"])
@pytest.mark.parametrize("head_epochs", [1, 2])
def test_the_body_rests_in_the_heads_epochs_and_the_head_in_the_bodys(
    optimizer: Any, head_epochs: int, monkeypatch: pytest.MonkeyPatch
):
    """To the bit, with momentum, weight decay and running statistics about."""
    config = training(optimizer=optimizer, local_epochs=3)
    bench = Bench("fedrep", {"head_epochs": head_epochs}, config=config, spec=NORMED)
    learner, between = bench.learner, []
    freeze_head = learner.freeze_head

    def freeze() -> None:
        between.append((learner.network.state(), learner.network.head_rows()))
        freeze_head()

    monkeypatch.setattr(learner, "freeze_head", freeze)
    _, update, _ = bench.visit(VisitKind.TRAIN)
    ((body_S, head_RF),) = between
    np.testing.assert_array_equal(body_S, bench.broadcast.features_S)
    assert not np.array_equal(head_RF, bench.head_CF[:CLASSES])
    np.testing.assert_array_equal(bench.state().head_CF[:CLASSES], head_RF)
    assert not np.array_equal(update.features_S, body_S)
    np.testing.assert_array_equal(update.features_S, bench.state().own_S)
    assert update.head_CF is None


def test_a_visit_is_that_of_an_ordinary_network_with_one_part_frozen():
    """torch's own SGD, first over a linear layer, then over the module under it; 2 epochs and 1, unshuffled."""
    config = training(optimizer=PLAIN, shuffle=False, local_epochs=3)
    bench = Bench("fedrep", {"head_epochs": 2}, config=config, spec=DRY)
    data = bench.data(bench.order(VisitKind.TRAIN))
    x_NCHW = bench.learner.normalisation(data.images_NHWC).permute(0, 3, 1, 2)
    y_N, losses = torch.from_numpy(data.labels_N), []
    module, layer = twin_of(bench.learner, DRY, bench.broadcast.features_S), nn.Linear(5, CLASSES)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(bench.head_CF[:CLASSES, :-1]))
        layer.bias.copy_(torch.from_numpy(bench.head_CF[:CLASSES, -1]))
    for trained, epochs in ((layer, 2), (module, 1)):
        sgd = torch.optim.SGD(trained.parameters(), lr=0.1)
        for batch in [slice(0, 8), slice(8, 16), slice(16, 20)] * epochs:
            sgd.zero_grad()
            loss = F.cross_entropy(layer(module(x_NCHW[batch])), y_N[batch])
            loss.backward()
            sgd.step()
            losses.append(loss.item() * len(y_N[batch]))
    _, _, report = bench.visit(VisitKind.TRAIN)
    flat_P = torch.zeros(bench.learner.network.P)
    bench.learner.network.write_gradients(tuple(p.detach() for p in module.parameters()), flat_P)
    np.testing.assert_allclose(bench.state().own_S, flat_P, atol=1e-6)
    trained_RF = torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach().numpy()
    np.testing.assert_allclose(bench.state().head_CF[:CLASSES], trained_RF, atol=1e-6)
    assert report.loss == pytest.approx(sum(losses) / 60, rel=1e-5)


def test_the_work_is_one_pass_the_heads_steps_and_steps_of_the_body_alone():
    """20 images in batches of 8, 8 and 4; 3 epochs of the head and 2 of the 275 weights by SGD, in three passes."""
    config = training(optimizer=PLAIN, local_epochs=5)
    bench = Bench("fedrep", {"head_epochs": 3}, config=config)
    order, _, report = bench.visit(VisitKind.TRAIN)
    steps = steps_of(report.work)
    counts: dict[str, int] = {}
    for (phase, *_), count in steps.items():
        counts[phase] = counts.get(phase, 0) + count
    assert counts == {"head": 3 + 9, "train": 6, "optimize": 6}
    assert steps["optimize", 0, 3 * 4 * 275] == 6
    assert steps == steps_of(plan_visit(order, bench.method).work)


def test_planned_flops_are_those_that_torch_counts():
    bench = Bench("fedrep", spec=DRY)
    order = bench.order(VisitKind.TRAIN)
    with FlopCounterMode(display=False) as counter:
        bench.visit(VisitKind.TRAIN)
    assert counter.get_total_flops() == plan_visit(order, bench.method).work.flops


def test_a_visit_takes_less_work_than_fedavgs_and_no_more_memory_than_its_parts():
    fedrep, fedavg = Bench("fedrep"), Bench("fedavg")
    order = fedrep.order(VisitKind.TRAIN, 1)
    plan, whole, costs = plan_visit(order, fedrep.method), plan_visit(order, fedavg.method), fedavg.method.costs
    assert plan.work.flops < whole.work.flops
    assert plan.peak_memory_bytes == max(whole.peak_memory_bytes, costs.head_training_bytes(order.facts))
    assert fedrep.method.kept_bytes(order.facts) == 0


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            {"model.head": "global"},
            "model.head: fedrep gives each client a head of its own and averages the features alone; 'global' would "
            "average the head too: set it to local, or use fedavg",
        ),
        (
            {"training.local_epochs": 1},
            "training.local_epochs: fedrep needs 2 or more: one epoch for the head, one for the body",
        ),
        (
            {"training.local_epochs": 4, "method.head_epochs": 4},
            "method.head_epochs: 4 leaves no epoch for the body, since training.local_epochs is 4; raise that to 5 or "
            "more, or lower this",
        ),
    ],
    ids=["global head", "one epoch", "all for the head"],
)
def test_what_cannot_be_is_refused_before_the_start(overrides: dict[str, Any], told: str):
    with pytest.raises(ConfigError) as caught:
        load_config(QUICKSTART, {"method": {"name": "fedrep"}, **overrides}, catalogue=CATALOGUE)
    assert [f"{fault.key}: {fault.message}" for fault in caught.value.faults] == [told]
