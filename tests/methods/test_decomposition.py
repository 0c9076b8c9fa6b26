"""B * sigma(m) + A: the gradients by hand against autograd, and the slow and obvious twin of each routine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from workbench import DRY, NORMED, make_learner, task_data, training

from fedknow_ray.methods.decomposition import (
    Decomposed,
    LossWeights,
    TaskParts,
    composed,
    keep_rows,
    spread,
    unit_sums,
)
from fedknow_ray.methods.learner import Batch, Learner

WEIGHTS = LossWeights(lambda_1=0.01, lambda_2=3.0, lambda_mask=0.5)


def some_parts(learner: Learner, seed: int, *, target: bool = False) -> TaskParts:
    rng, P = torch.Generator().manual_seed(seed), learner.network.P
    units = sum(piece.shape[0] for piece in learner.network.layout)
    adaptive_P, target_P = (0.1 * torch.randn(P, generator=rng) for _ in range(2))
    mask_M = torch.randn(units, generator=rng)
    return TaskParts(adaptive_P, mask_M, learner.network.buffers.clone(), target_P if target else None)


def spread_slowly(values_M: Tensor, learner: Learner) -> Tensor:
    out, unit = [], 0
    for piece in learner.network.layout:
        for _ in range(piece.shape[0]):
            out += [values_M[unit]] * (piece.size // piece.shape[0])
            unit += 1
    return torch.stack(out)


def test_each_weight_has_the_value_of_its_unit():
    learner = make_learner(NORMED)
    values_M = torch.arange(float(len(some_parts(learner, 0).mask_M)))
    spread_P = spread(values_M, learner.network.layout)
    assert torch.equal(spread_P, spread_slowly(values_M, learner))
    assert len(spread_P) == learner.network.P
    # a sum over a unit's weights is the transpose: <spread(m), x> = <m, sums(x)>
    x_P = torch.randn(learner.network.P, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(spread_P @ x_P, values_M @ unit_sums(x_P, learner.network.layout))


def test_it_reconstructs_b_m_plus_a():
    """To the bit, weight by weight."""
    learner, base_P = make_learner(), make_learner().network.theta[:275].clone()
    parts = some_parts(learner, 1)
    gates_P = torch.sigmoid(spread_slowly(parts.mask_M, learner))
    expected = [np.float32(b) * np.float32(g) for b, g in zip(base_P.numpy(), gates_P.numpy(), strict=True)]
    expected = [b + np.float32(a) for b, a in zip(expected, parts.adaptive_P.numpy(), strict=True)]
    np.testing.assert_array_equal(composed(base_P, parts, learner.network.layout).numpy(), expected)


def one_batch(learner: Learner) -> Batch:
    data = task_data()
    x_NCHW = learner.normalisation(data.images_NHWC[:8]).permute(0, 3, 1, 2)
    return Batch(np.arange(8), x_NCHW, torch.from_numpy(data.labels_N[:8]))


def whole_loss(
    learner: Learner, values: dict[str, Tensor], past: list[TaskParts], past_A: list[Tensor], batch: Batch
) -> tuple[Tensor, Tensor]:
    """The loss of FedWEIT as its formula says it, and the cross entropy in it."""
    network = learner.network
    theta_P = values["B"] * torch.sigmoid(spread(values["m"], network.layout)) + values["A"]
    z_NF = network.call_with(network.as_tensors(theta_P), network.buffers.clone(), batch.x_NCHW)
    head = values["head"].view_as(network.head)
    entropy = F.cross_entropy(z_NF @ head[:, :-1].T + head[:, -1], batch.y_N)
    sizes = values["A"].abs().sum() + sum(A_P.abs().sum() for A_P in past_A) + 0.5 * values["m"].abs().sum()
    away = torch.tensor(0.0)
    for task, A_P in zip(past, past_A, strict=True):
        gate_P = torch.sigmoid(spread(task.mask_M, network.layout))
        away = away + ((values["B"] * gate_P + A_P - task.target_P) ** 2).sum() / 2
    return entropy + 0.01 * sizes + 3.0 * away, entropy


@pytest.mark.parametrize("tasks", [0, 1, 3])
def test_the_gradient_is_that_of_autograd(tasks: int):
    learner = make_learner(DRY)
    network = learner.network
    network.features.train()
    base_P, parts = network.theta[: network.P].clone(), some_parts(learner, 9)
    past = [some_parts(learner, seed, target=True) for seed in range(tasks)]
    model = Decomposed(learner, base_P, parts, past, WEIGHTS)
    batch = one_batch(learner)
    loss = model.fill_gradient(learner, batch)
    head = network.theta[network.P :].clone()
    values = {"B": base_P, "head": head, "A": parts.adaptive_P, "m": parts.mask_M}
    values = {name: value.clone().requires_grad_() for name, value in values.items()}
    past_A = [task.adaptive_P.clone().requires_grad_() for task in past]
    whole, entropy = whole_loss(learner, values, past, past_A, batch)
    whole.backward()
    assert loss == pytest.approx(entropy.item(), rel=1e-5)
    for got, value in zip(model._grads, [*values.values(), *past_A], strict=True):
        assert value.grad is not None
        torch.testing.assert_close(got, value.grad.reshape(-1), rtol=1e-4, atol=1e-6)


def test_steps_are_those_of_torchs_optimizer():
    """Three steps of Adam on separate tensors, with autograd: the same weights, and the network holds theta."""
    config = training()
    config = config.model_copy(update={"optimizer": config.optimizer.model_copy(update={"lr_decay": 0.0})})
    learner = make_learner(DRY, config)
    network = learner.network
    network.features.train()
    base_P, parts, past = (
        network.theta[: network.P].clone(),
        some_parts(learner, 9),
        [some_parts(learner, 1, target=True)],
    )
    values = {"B": base_P, "head": network.theta[network.P :], "A": parts.adaptive_P, "m": parts.mask_M}
    values = {name: value.clone().requires_grad_() for name, value in values.items()}
    past_A = [past[0].adaptive_P.clone().requires_grad_()]
    adam = torch.optim.Adam(
        [*values.values(), *past_A], lr=config.optimizer.lr, weight_decay=config.optimizer.weight_decay
    )
    model, batch = Decomposed(learner, base_P, parts, past, WEIGHTS), one_batch(learner)
    for _ in range(3):
        model.fill_gradient(learner, batch)
        model.step()
        adam.zero_grad()
        whole_loss(learner, values, past, past_A, batch)[0].backward()
        adam.step()
    torch.testing.assert_close(model.base_P, values["B"].detach(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(model.past_adaptive[0], past_A[0].detach(), rtol=1e-3, atol=1e-5)
    now = replace(parts, adaptive_P=model.adaptive_P, mask_M=model.mask_M)
    assert torch.equal(network.theta[: network.P], composed(model.base_P, now, network.layout))


def test_the_rows_of_the_largest_masks_are_kept():
    """Of three channels all but one, of five units all but two: by hand, in the layout of the tiny network."""
    learner = make_learner()
    layout = learner.network.layout
    base_P, received_P = torch.ones(learner.network.P), torch.zeros(learner.network.P)
    assert [piece.shape[0] for piece in layout] == [3, 3, 5, 5]
    mask_M = torch.tensor([1.0, -3.0, 2.0, 0.0, 0.0, 0.0, *range(5), 5.0, -4.0, 3.0, -2.0, 1.0])
    kept_P = keep_rows(layout, base_P, received_P, mask_M, 0.4)
    kept = [kept_P[piece.start : piece.stop].view(piece.shape[0], -1).mean(dim=1).tolist() for piece in layout]
    assert kept == [[0, 1, 1], [1, 1, 0], [0, 0, 1, 1, 1], [1, 1, 1, 0, 0]]
