"""APFL: the shared model is FedAvg's, the own one a mix of it with a personal one, and their share is learnt."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from workbench import ADAM, CLASSES, DRY, NORMED, SGD, SIZE, Bench, make_learner, steps_of, training, twin_of

from fedknow_ray.config.model import SgdOptimizer
from fedknow_ray.federation.visit import SharedModel, VisitKind, plan_visit
from fedknow_ray.methods.apfl import ApflMemory, ApflSettings, MixingRule
from fedknow_ray.methods.learner import Batch
from fedknow_ray.models.network import initial_model

PLAIN = SgdOptimizer(lr=0.1, lr_decay=0.0)
#: A rate so small that nothing moves by as much as is looked at.
STILL = training(optimizer=SgdOptimizer(lr=1e-9))


def another_model(bench: Bench) -> SharedModel:
    features_S, head_CF = initial_model(bench.spec, **SIZE, classes=bench.tasks * CLASSES, seed=77)
    return SharedModel(features_S, head_CF if bench.head_global else None)


def fixed(alpha: float) -> dict[str, Any]:
    return {"alpha": alpha, "adapt_alpha": False}


@pytest.mark.parametrize("wrong", [{"alpha": -0.1}, {"alpha": 1.1}, {"adapt_alpha": 2}, {"mu": 0.1}], ids=str)
def test_other_settings_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        ApflSettings(**wrong)


@pytest.mark.parametrize("optimizer", [ADAM, SGD], ids=["adam", "sgd"])
@pytest.mark.parametrize("head_global", [False, True], ids=["local head", "global head"])
def test_without_a_personal_part_it_is_fedavg_to_the_bit(optimizer: Any, head_global: bool):
    """What it sends, its own model and its loss; over two tasks, with dropout and running statistics."""
    config = training(optimizer=optimizer)
    apfl, fedavg = (
        Bench(name, hyper, config=config, spec=NORMED, head_global=head_global)
        for name, hyper in (("apfl", fixed(0)), ("fedavg", {}))
    )
    for task_index in range(2):
        for kind, trained in ((VisitKind.TRAIN, False), (VisitKind.TRAIN, True), (VisitKind.FINISH_TASK, True)):
            _, update, report = apfl.visit(kind, task_index, trained=trained)
            _, expected, wanted = fedavg.visit(kind, task_index, trained=trained)
            assert (update is None) is (expected is None)
            if update is not None and expected is not None:
                assert update.payload().tobytes() == expected.payload().tobytes()
            np.testing.assert_array_equal(apfl.state().own_S, fedavg.state().own_S)
            np.testing.assert_array_equal(apfl.state().head_CF, fedavg.state().head_CF)
            assert report.loss == wanted.loss
            apfl.broadcast = fedavg.broadcast = another_model(fedavg)


@pytest.mark.parametrize("optimizer", [ADAM, SGD], ids=["adam", "sgd"])
def test_all_personal_the_own_model_is_that_of_training_alone(optimizer: Any):
    """The same up to the rounding of sums; with dropout, since both models have one mask."""
    apfl, local = (
        Bench(name, hyper, config=training(optimizer=optimizer), spec=NORMED)
        for name, hyper in (("apfl", fixed(1)), ("local", {}))
    )
    for kind, trained in ((VisitKind.TRAIN, False), (VisitKind.TRAIN, True)):
        _, update, _ = apfl.visit(kind, trained=trained)
        local.visit(kind, trained=trained)
        np.testing.assert_allclose(apfl.state().own_S, local.state().own_S, atol=1e-5)
        np.testing.assert_allclose(apfl.state().head_CF, local.state().head_CF, atol=1e-5)
        assert not np.allclose(update.features_S, apfl.state().own_S, atol=1e-3) or not trained
        apfl.broadcast = another_model(apfl)


@pytest.mark.parametrize("adapts", [True, False])
def test_a_visit_is_that_of_ordinary_modules_mixed_by_autograd(adapts: bool):
    """Both models, their share and the head, each by a plain step; alpha's gradient is autograd's."""
    config = training(optimizer=PLAIN, shuffle=False)
    bench = Bench("apfl", {"adapt_alpha": adapts}, config=config, spec=DRY)
    network, personal_S = bench.learner.network, another_model(bench).features_S
    bench.states[0] = replace(bench.state(), memory=ApflMemory(personal_S, 0.4))
    data, losses = bench.data(bench.order(VisitKind.TRAIN)), []
    x_NCHW = bench.learner.normalisation(data.images_NHWC).permute(0, 3, 1, 2)
    y_N = torch.from_numpy(data.labels_N)
    module = twin_of(bench.learner, DRY, bench.broadcast.features_S)
    names = [name for name, _ in module.named_parameters()]
    w, v = ([*twin_of(bench.learner, DRY, S).parameters()] for S in (bench.broadcast.features_S, personal_S))
    head, alpha = torch.tensor(bench.head_CF[:CLASSES], requires_grad=True), torch.tensor(0.4, requires_grad=True)

    def loss_of(weights: list[Tensor], batch: slice) -> Tensor:
        z_NF = torch.func.functional_call(module, dict(zip(names, weights, strict=True)), (x_NCHW[batch],))
        return F.cross_entropy(z_NF @ head[:, :-1].T + head[:, -1], y_N[batch])

    for batch in [slice(0, 8), slice(8, 16), slice(16, 20)] * 2:
        mixed = [alpha * one + (1 - alpha) * other for one, other in zip(v, w, strict=True)]
        *for_w, head_w = torch.autograd.grad(loss_of(w, batch), [*w, head])
        loss = loss_of(mixed, batch)
        *for_v, head_m, slope = torch.autograd.grad(loss, [*v, head, alpha])
        losses.append(loss.item() * len(y_N[batch]))
        for_head = (1 - alpha.item()) * head_w + alpha.item() * head_m
        with torch.no_grad():
            for value, step in zip([*w, *v, head], [*for_w, *for_v, for_head], strict=True):
                value -= 0.1 * step
            alpha -= 0.1 * slope * adapts
    _, update, report = bench.visit(VisitKind.TRAIN)
    memory = bench.state().memory
    assert memory.alpha == pytest.approx(alpha.item(), abs=1e-5)
    assert (memory.alpha != 0.4) is adapts
    assert report.notes == {"alpha": memory.alpha}
    own = [alpha * one + (1 - alpha) * other for one, other in zip(v, w, strict=True)]
    for values, flat_S in ((w, update.features_S), (v, memory.personal_S), (own, bench.state().own_S)):
        flat_P = torch.zeros(network.P)
        network.write_gradients(tuple(value.detach() for value in values), flat_P)
        np.testing.assert_allclose(flat_S, flat_P, atol=2e-6)
    np.testing.assert_allclose(bench.state().head_CF[:CLASSES], head.detach(), atol=2e-6)
    assert report.loss == pytest.approx(sum(losses) / 40, rel=1e-5)


def test_the_mix_is_of_weights_and_statistics():
    """A quarter of 4 and three quarters of 0."""
    learner = make_learner(NORMED)
    learner.network.load(np.zeros(learner.network.S, np.float32))
    rule = MixingRule(learner, ApflMemory(np.full(learner.network.S, 4, np.float32), 0.25), ApflSettings())
    rule.load_mix(learner.network)
    np.testing.assert_array_equal(learner.network.state(), np.ones(learner.network.S))


@pytest.mark.parametrize(("slope", "alpha"), [(2.0, 0.3), (-1.0, 0.6), (100.0, 0.0), (-100.0, 1.0)])
def test_alpha_goes_down_its_slope_at_the_steps_rate_and_stays_a_share(
    slope: float, alpha: float, monkeypatch: pytest.MonkeyPatch
):
    """From 0.5 at a rate of 0.1."""
    learner = make_learner(DRY, training(optimizer=PLAIN))
    rule = MixingRule(learner, ApflMemory(learner.network.state(), 0.5), ApflSettings())
    monkeypatch.setattr(rule, "_slope", lambda network: slope)
    data = Bench("apfl").data(Bench("apfl").order(VisitKind.TRAIN))
    x_NCHW = learner.normalisation(data.images_NHWC[:4]).permute(0, 3, 1, 2)
    rule(learner, Batch(np.arange(4), x_NCHW, torch.from_numpy(data.labels_N[:4])))
    assert rule.alpha == pytest.approx(alpha)


def test_the_personal_model_starts_as_the_first_broadcast_and_stays():
    """With a rate that moves nothing: the second visit mixes it, in equal parts, with what came then."""
    bench = Bench("apfl", fixed(0.5), config=STILL, spec=DRY)
    first_S = bench.broadcast.features_S
    bench.visit(VisitKind.TRAIN)
    bench.visit(VisitKind.FINISH_TASK, trained=True)
    bench.broadcast = another_model(bench)
    _, update, _ = bench.visit(VisitKind.TRAIN, 1)
    np.testing.assert_allclose(bench.state().memory.personal_S, first_S, atol=1e-6)
    np.testing.assert_allclose(update.features_S, bench.broadcast.features_S, atol=1e-6)
    np.testing.assert_allclose(bench.state().own_S, (first_S + bench.broadcast.features_S) / 2, atol=1e-6)


def test_a_client_that_was_never_sampled_in_a_task_keeps_its_personal_model():
    bench = Bench("apfl", spec=NORMED)
    bench.visit(VisitKind.TRAIN)
    memory = bench.state().memory
    bench.broadcast = another_model(bench)
    bench.visit(VisitKind.FINISH_TASK, 1)
    assert bench.state().memory is memory
    np.testing.assert_array_equal(bench.state().own_S, bench.broadcast.features_S)


def test_a_personal_model_is_kept_from_the_first_visit_on():
    """275 weights of four bytes."""
    bench = Bench("apfl")
    kept = [
        bench.method.kept_bytes(bench.order(VisitKind.TRAIN, task_index, trained=trained).facts)
        for task_index, trained in ((0, False), (0, True), (1, False), (3, True))
    ]
    assert kept == [0, 1100, 1100, 1100]


def test_the_personal_model_takes_room():
    """In training v, the mix, v's gradient and Adam's two states; at the end of a task v."""
    apfl, fedavg = Bench("apfl"), Bench("fedavg")
    for kind, extra in ((VisitKind.TRAIN, 5 * 1100), (VisitKind.FINISH_TASK, 1100)):
        for trained in (False, True):
            order = apfl.order(kind, 1, trained=trained)
            peaks = [plan_visit(order, bench.method).peak_memory_bytes for bench in (apfl, fedavg)]
            assert peaks[0] - peaks[1] == extra


@pytest.mark.parametrize(("adapts", "passes"), [(True, 8), (False, 5)])
def test_the_work_is_that_of_two_models_and_of_mixing_them(adapts: bool, passes: int):
    """6 steps, and the mix that a visit ends with."""
    bench = Bench("apfl", {"adapt_alpha": adapts}, config=training(optimizer=PLAIN))
    order, _, report = bench.visit(VisitKind.TRAIN)
    steps = steps_of(report.work)
    counts: dict[str, int] = {}
    for (phase, *_), count in steps.items():
        counts[phase] = counts.get(phase, 0) + count
    assert counts == {"train": 6, "personal": 6, "optimize": 12, "mix": 7}
    assert (steps["mix", 0, passes * 1100], steps["mix", 0, 3 * 1100]) == (6, 1)
    assert steps == steps_of(plan_visit(order, bench.method).work)


def test_planned_flops_are_those_that_torch_counts():
    """But for alpha's slope, a product of vectors, which counts as bytes."""
    bench = Bench("apfl", fixed(0.5), spec=DRY)
    order = bench.order(VisitKind.TRAIN)
    with FlopCounterMode(display=False) as counter:
        bench.visit(VisitKind.TRAIN)
    assert counter.get_total_flops() == plan_visit(order, bench.method).work.flops
