"""FedKNOW's second use: the gradient at the client's own model against twins, and the displacement."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from twins import batch_of, logits_of
from workbench import CLASSES, DRY, NORMED, TINY, flat_gradient, make_learner, steps_of, twin_of

from fedknow_ray.methods.fedknow.integrator import integrate
from fedknow_ray.methods.fedknow.rules import integration_work
from fedknow_ray.methods.fedknow.second_use import SecondUseRule
from fedknow_ray.methods.learner import Learner
from fedknow_ray.models.catalogue import ModelSpec


def second_use_rule(learner: Learner, *, seed: int = 9, displacement: bool = False) -> SecondUseRule:
    own = make_learner(NORMED if learner.network.B else DRY, seed=seed).network
    state_S = torch.tensor(own.state())
    head_RF = torch.tensor(own.head_rows())
    return SecondUseRule(state_S[: own.P], state_S[own.P :], head_RF, 0.0, displacement)


@pytest.mark.parametrize("spec", [TINY, NORMED], ids=lambda spec: spec.name)
def test_both_gradients_are_taken_on_the_same_batch_and_mask(seen: list[Tensor], spec: ModelSpec):
    """The twins draw their dropout masks from the same state of the generator."""
    learner = make_learner(spec)
    learner.network.features.train()
    rule = second_use_rule(learner)
    batch, twin = batch_of(learner), twin_of(learner, spec).train()
    own = twin_of(learner, spec, torch.cat([rule.own_P, rule.own_B]).numpy()).train()
    expected = []
    for model, head in ((twin, learner.network.head), (own, rule.own_head_RF)):
        torch.manual_seed(7)
        F.cross_entropy(logits_of(model(batch.x_NCHW), head), batch.y_N).backward()
        expected.append(flat_gradient(learner.network, model))
    torch.manual_seed(7)
    rule(learner, batch)
    torch.testing.assert_close(seen[0], torch.stack(expected), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("displacement", [False, True], ids=["gradient", "displacement"])
def test_it_draws_as_much_as_one_forward_pass(displacement: bool):
    """So that the epochs after it meet the masks that they would meet without it."""
    learner = make_learner(TINY)
    learner.network.features.train()
    rule = second_use_rule(learner, displacement=displacement)
    torch.manual_seed(7)
    learner.network.features(batch_of(learner).x_NCHW)
    expected = torch.rand(1)
    torch.manual_seed(7)
    rule(learner, batch_of(learner))
    assert torch.equal(torch.rand(1), expected)


def test_from_the_own_model_its_gradient_constrains_nothing(seen: list[Tensor]):
    """g and g_b are the same gradient: cosine 1, no violation, g' = g."""
    learner = make_learner(TINY)
    learner.network.features.train()
    state_S = torch.tensor(learner.network.state())
    rule = SecondUseRule(state_S, torch.empty(0), learner.network.head.clone(), 0.0, False)
    rule(learner, batch_of(learner))
    assert rule.cosines == pytest.approx([1.0], abs=1e-5)
    assert rule.norms == pytest.approx([float(seen[0][0].norm())], rel=1e-5)
    assert (rule.tally.integrated_steps, rule.tally.violated_steps) == (1, 0)
    torch.testing.assert_close(learner.network.grad[: learner.network.P], seen[0][0])


@pytest.mark.parametrize("displacement", [False, True], ids=["gradient", "displacement"])
def test_the_own_model_stays_as_it_is(displacement: bool):
    learner = make_learner(DRY)
    rule = second_use_rule(learner, displacement=displacement)
    own_P, head = rule.own_P.detach().clone(), rule.own_head_RF.clone()
    for _ in range(2):
        rule(learner, batch_of(learner))
        learner.optimize()
    assert torch.equal(rule.own_P, own_P)
    assert torch.equal(rule.own_head_RF, head)


def test_the_displacement_leads_from_the_own_model_to_where_training_started(seen: list[Tensor]):
    """In every step, however far the weights have moved since."""
    learner = make_learner(DRY)
    start_P = learner.network.theta[: learner.network.P].clone()
    rule = second_use_rule(learner, displacement=True)
    for _ in range(3):
        rule(learner, batch_of(learner))
        learner.optimize()
    assert not torch.equal(learner.network.theta[: learner.network.P], start_P)
    for vectors in seen:
        assert torch.equal(vectors[1], start_P - rule.own_P)


def test_with_a_displacement_the_gradient_filled_leads_no_further_from_the_own_model(seen: list[Tensor]):
    """A step is minus g': where <g', w - w_c> >= 0 it does not grow the distance to w_c, to first order.

    The own model is put where g would lead away from it.
    """
    learner = make_learner(DRY)
    network, batch = learner.network, batch_of(learner)
    rule = second_use_rule(learner, displacement=True)
    rule(learner, batch)
    g_P = seen[0][0]
    rule = SecondUseRule(network.theta[: network.P] + g_P, rule.own_B, rule.own_head_RF, 0.0, True)
    rule(learner, batch)
    assert rule.tally.violated_steps == 1
    assert rule.cosines == pytest.approx([-1.0], abs=1e-4)
    torch.testing.assert_close(network.grad[: network.P], integrate(torch.stack([g_P, -g_P])).g_P, atol=1e-6, rtol=0)
    assert float(network.grad[: network.P] @ seen[1][1]) >= -1e-6 * float(seen[1][1].norm())


def test_from_the_own_model_the_displacement_constrains_nothing(seen: list[Tensor]):
    """It is zero then: no cosine to note, and g' = g bit for bit."""
    learner = make_learner(DRY)
    state_S = torch.tensor(learner.network.state())
    rule = SecondUseRule(state_S, torch.empty(0), learner.network.head.clone(), 0.0, True)
    rule(learner, batch_of(learner))
    assert (rule.norms, rule.cosines) == ([0.0], [])
    assert rule.tally.violated_steps == 0
    assert torch.equal(learner.network.grad[: learner.network.P], seen[0][0])


@pytest.mark.parametrize(("displacement", "further_passes"), [(False, 1), (True, 0)], ids=["gradient", "displacement"])
def test_only_the_gradient_takes_a_further_pass(displacement: bool, further_passes: int):
    learner = make_learner(DRY)
    second_use_rule(learner, displacement=displacement)(learner, batch_of(learner))
    further = learner.costs.forward_backward("second_use", 6, CLASSES)
    integration = integration_work(learner.costs, 1)
    counted = steps_of(learner.log.work())
    assert counted["second_use", further.flops, further.moved_bytes] == further_passes
    assert counted["integrate", integration.flops, integration.moved_bytes] == 1


def test_the_displacement_is_made_once_a_visit():
    """In three passes of 4 bytes a weight: both models are read, and it is written."""
    learner = make_learner(DRY)
    rule = second_use_rule(learner, displacement=True)
    for _ in range(3):
        rule(learner, batch_of(learner))
        learner.optimize()
    counted = steps_of(learner.log.work())
    assert {step: count for step, count in counted.items() if step[0] == "second_use"} == {
        ("second_use", 0, 12 * 275): 1
    }
