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


def test_half_the_widths_at_32_x_32_x_3():
    """The same shapes with 16, 32, 64 channels and 512 features: about a quarter of weights and multiply-adds."""
    convolutions = [(3, 16), (16, 16), (16, 32), (32, 32), (32, 64), (64, 64)]
    weights = sum((9 * before + 1) * after for before, after in convolutions) + 1025 * 512
    half = measure_footprint(MODELS.get("cnn6_half"), height=32, width=32, channels=3)
    assert (half.P, half.F) == (weights, 512) == (596_880, 512)
    multiply_adds = 1024 * 9 * (3 + 16) * 16 + 256 * 9 * (16 + 32) * 32 + 64 * 9 * (32 + 64) * 64 + 1024 * 512
    assert half.forward_flops == pytest.approx(2 * multiply_adds, rel=0.01)
