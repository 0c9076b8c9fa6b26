"""The six-layer CNN: sizes and FLOPs counted by hand."""

from __future__ import annotations

import pytest
import torch

from fedknow_ray.models.catalogue import MODELS
from fedknow_ray.models.cnn6 import Cnn6Features
from fedknow_ray.models.footprint import Footprint, measure_footprint


@pytest.fixture(scope="module")
def cost() -> Footprint:
    return measure_footprint(MODELS.get("cnn6"), height=32, width=32, channels=3)


def test_weights_at_32_x_32_x_3():
    """Convolutions (9 in + 1) out, then (2048 + 1) 1024."""
    convolutions = [(3, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)]
    by_hand = sum((9 * before + 1) * after for before, after in convolutions) + 2049 * 1024
    assert sum(p.numel() for p in Cnn6Features(32, 32, 3).parameters()) == by_hand == 2_385_184


def test_forward_flops_at_32_x_32_x_3(cost: Footprint):
    """Pixels x 9 x in x out multiply-adds a convolution: 40.7 million in all, as the paper's network has."""
    multiply_adds = (
        32 * 32 * 9 * 3 * 32  # 884,736
        + 32 * 32 * 9 * 32 * 32  # 9,437,184
        + 16 * 16 * 9 * 32 * 64  # 4,718,592
        + 16 * 16 * 9 * 64 * 64  # 9,437,184
        + 8 * 8 * 9 * 64 * 128  # 4,718,592
        + 8 * 8 * 9 * 128 * 128  # 9,437,184
        + 4 * 4 * 128 * 1024  # 2,097,152
    )
    assert multiply_adds == 40_730_624
    assert cost.forward_flops == pytest.approx(2 * multiply_adds, rel=0.01)


def test_backward_flops_at_32_x_32_x_3(cost: Footprint):
    """As much as forward for the weights, as much for the inputs, but nobody asks for the gradient of the image."""
    first_convolution = 2 * 32 * 32 * 9 * 3 * 32
    assert cost.backward_flops == pytest.approx(2 * 81_461_248 - first_convolution, rel=0.01)


def test_kept_bytes_at_32_x_32_x_3(cost: Footprint):
    """What a backward pass needs of one image, in float32 but for the int64 places of maxima.

    A block of v values keeps two ReLU outputs (8 v bytes), the places (2 v), the dropout mask (v) and its output (v);
    the linear layer its ReLU output and mask; the first convolution the image.
    """
    blocks = [32 * 1024, 64 * 256, 128 * 64]
    assert cost.kept_bytes == 12 * sum(blocks) + 2 * 4 * 1024 + 4 * 3 * 1024 == 708_608


@pytest.mark.parametrize(("height", "width", "channels"), [(8, 8, 1), (28, 28, 1), (64, 64, 3), (9, 15, 3)])
def test_other_sizes_give_1024_features(height: int, width: int, channels: int):
    features = Cnn6Features(height, width, channels).eval()
    assert features(torch.zeros(2, channels, height, width)).shape == (2, 1024)


def test_dropout_acts_in_training_only():
    features = Cnn6Features(8, 8, 1).eval()
    x = torch.ones(1, 1, 8, 8)
    assert torch.equal(features(x), features(x))
    features.train()
    assert not torch.equal(features(x), features(x))


@pytest.mark.parametrize(("name", "a", "weights"), [("cnn6_half", 16, 596_880), ("cnn6_quarter", 8, 149_512)])
def test_narrower_at_32_x_32_x_3(name: str, a: int, weights: int):
    """The same shapes with a, 2a, 4a channels and 32a features: the linear layer has 16 inputs a last channel."""
    convolutions = [(3, a), (a, a), (a, 2 * a), (2 * a, 2 * a), (2 * a, 4 * a), (4 * a, 4 * a)]
    by_hand = sum((9 * before + 1) * after for before, after in convolutions) + (64 * a + 1) * 32 * a
    cost = measure_footprint(MODELS.get(name), height=32, width=32, channels=3)
    assert (cost.P, cost.F) == (by_hand, 32 * a) == (weights, 32 * a)
    pixels = [1024, 1024, 256, 256, 64, 64]
    products = sum(9 * p * x * y for p, (x, y) in zip(pixels, convolutions, strict=True)) + 64 * a * 32 * a
    assert cost.forward_flops == pytest.approx(2 * products, rel=0.01)
