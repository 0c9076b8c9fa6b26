"""What passes of a network cost: hand counts of a tiny network, and linearity."""

from __future__ import annotations

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode
from workbench import DRY, NORMED, SIZE, TINY

from fedknow_ray.models.catalogue import ModelSpec
from fedknow_ray.models.footprint import measure_footprint


def test_flops_of_a_tiny_network_by_hand():
    """Convolution: 64 pixels x 9 x 3; linear: 48 x 5. Two FLOPs a multiply-add; backward without the image's own."""
    cost = measure_footprint(DRY, **SIZE)
    assert cost.forward_flops == 2 * (64 * 9 * 3 + 48 * 5)
    assert cost.backward_flops == 2 * (64 * 9 * 3 + 2 * 48 * 5)


def test_kept_bytes_of_a_tiny_network_by_hand():
    """float32: the image (64), the convolution's ReLU (192), pooled (48), the second ReLU (5); int64: 48 places."""
    assert measure_footprint(DRY, **SIZE).kept_bytes == 4 * (64 + 192 + 48 + 5) + 8 * 48


def test_sizes_of_a_tiny_network_by_hand():
    cost = measure_footprint(NORMED, **SIZE)
    assert (cost.P, cost.B, cost.F, cost.input_bytes, cost.weight_bytes) == (281, 6, 5, 256, 1124)


def test_head_flops_by_hand():
    """z W' forward; d' z and d W backward: 2 x 10 images x 5 features x 3 classes each."""
    cost = measure_footprint(DRY, **SIZE)
    assert (cost.head_forward_flops(10, 3), cost.head_backward_flops(10, 3)) == (300, 600)


@pytest.mark.parametrize("n", [1, 3, 10])
@pytest.mark.parametrize("spec", [DRY, TINY], ids=lambda spec: spec.name)
def test_costs_are_linear_in_the_images(spec: ModelSpec, n: int):
    features, x = spec.build(8, 8, 1), torch.zeros(n, 1, 8, 8)
    with FlopCounterMode(display=False) as forward:
        z = features(x)
    with FlopCounterMode(display=False) as backward:
        z.sum().backward()
    cost = measure_footprint(spec, **SIZE)
    assert forward.get_total_flops() == n * cost.forward_flops
    assert backward.get_total_flops() == n * cost.backward_flops


@pytest.mark.parametrize("n", [1, 10])
def test_kept_bytes_are_what_autograd_keeps_besides_weights(n: int):
    """The same count on real tensors."""
    features, kept = DRY.build(8, 8, 1), {}
    weights = {p.data_ptr() for p in features.parameters()}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        z = features(torch.zeros(n, 1, 8, 8))
    assert z.requires_grad
    total = sum(size for place, size in kept.items() if place not in weights)
    assert total == n * measure_footprint(DRY, **SIZE).kept_bytes


def test_a_footprint_is_measured_once():
    assert measure_footprint(TINY, **SIZE) is measure_footprint(TINY, **SIZE)
