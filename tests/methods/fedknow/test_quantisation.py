"""Weights in few bits: hand-worked codes, and the laws of rounding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedknow_ray.methods.fedknow import quantisation
from fedknow_ray.methods.fedknow.quantisation import decode, encode
from fedknow_ray.models.layout import TensorSlice

LAYOUT = (TensorSlice("a.weight", 0, (2, 3)), TensorSlice("a.bias", 6, (2,)), TensorSlice("b.weight", 8, (1, 3)))
PRUNABLE = torch.tensor([True] * 6 + [False] * 2 + [True] * 3)


def there_and_back(w_P: Tensor, bits: int, chosen_P: Tensor = PRUNABLE) -> Tensor:
    codes, scales = encode(w_P, chosen_P, LAYOUT, bits)
    return decode(codes, scales, chosen_P, LAYOUT, bits)


def test_whole_multiples_of_a_rows_scale_come_back_exactly():
    """Rows of 7, 14 and 3.5 times 1/7: each code is a whole number, and nothing is cut off."""
    w_P = torch.tensor([7.0, -3.0, 0.0, 14.0, 2.0, -8.0, 9.0, 9.0, 3.5, -0.5, 1.0])
    expected = torch.where(PRUNABLE, w_P, 0.0)
    torch.testing.assert_close(there_and_back(w_P, 4), expected, rtol=0, atol=0)


def test_codes_are_packed_two_to_a_byte_the_first_in_the_lower_half():
    """Row (7, -3, 0), scale 1: codes 7, -3, 0, stored with 7 added as 14, 4, 7."""
    chosen_P = torch.tensor([True] * 3 + [False] * 8)
    w_P = torch.zeros(11)
    w_P[:3] = torch.tensor([7.0, -3.0, 0.0])
    codes, scales = encode(w_P, chosen_P, LAYOUT, 4)
    assert codes.tolist() == [14 | 4 << 4, 7]
    assert scales.tolist() == [1.0, 1.0, 1.0]


def test_eight_bits_take_a_byte_each():
    codes, _ = encode(torch.ones(11), PRUNABLE, LAYOUT, 8)
    assert codes.tolist() == [254] * 9


def test_weights_that_are_not_chosen_do_not_stretch_the_scale():
    w_P = torch.tensor([7.0, 1.0, 1000.0, 0, 0, 0, 0, 0, 0, 0, 0])
    chosen_P = torch.tensor([True, True] + [False] * 9)
    assert there_and_back(w_P, 4, chosen_P)[:3].tolist() == [7.0, 1.0, 0.0]


def test_an_outlier_is_cut_off_where_that_costs_less():
    """Of 400 weights one is 1 and the others 0.5: a scale that ends at 0.55 or 0.7 has the smaller squared error."""
    layout = (TensorSlice("w", 0, (1, 400)),)
    w_P = torch.full((400,), 0.5)
    w_P[0] = 1.0
    chosen_P = torch.ones(400, dtype=torch.bool)
    _, scales = encode(w_P, chosen_P, layout, 4)
    errors = [float((torch.clamp((w_P / s).round(), -7, 7) * s - w_P).square().sum()) for s in _candidates(1.0, 7)]
    assert float(scales[0]) == pytest.approx(_candidates(1.0, 7)[errors.index(min(errors))])
    assert float(scales[0]) < 1 / 7


def _candidates(largest: float, q: int) -> list[float]:
    return [largest * clip / q for clip in quantisation.CLIPS]


@given(st.lists(st.floats(-8, 8, width=32), min_size=11, max_size=11), st.sampled_from([4, 8]))
def test_no_weight_moves_further_than_rounding_its_row_without_cutting_would_on_the_whole(w: list[float], bits: int):
    w_P, q = torch.tensor(w), 2 ** (bits - 1) - 1
    back_P = there_and_back(w_P, bits)
    for start, stop in ((0, 3), (3, 6), (8, 11)):
        row, scale = w_P[start:stop].double(), max(float(w_P[start:stop].abs().max()), 1e-30) / q
        bound = 3 * (scale / 2) ** 2
        assert float((back_P[start:stop].double() - row).square().sum()) <= bound * (1 + 1e-4) + 1e-30


def test_a_row_of_zeros_stays_zero():
    assert not there_and_back(torch.zeros(11), 4).any()


def test_a_row_too_small_for_a_scale_of_float32_becomes_zero():
    assert not there_and_back(torch.full((11,), 1e-40), 8).any()


@pytest.mark.parametrize("bits", [1, 16, 32])
def test_other_bits_are_refused(bits: int):
    with pytest.raises(ValueError, match=f"4 or 8 bits, got {bits}"):
        encode(torch.zeros(11), PRUNABLE, LAYOUT, bits)


def test_a_network_without_rows_has_no_codes_and_no_scales():
    layout = (TensorSlice("scale", 0, (3,)),)
    codes, scales = encode(torch.ones(3), torch.zeros(3, dtype=torch.bool), layout, 4)
    assert (codes.numel(), scales.numel()) == (0, 0)
    assert decode(codes, scales, torch.zeros(3, dtype=torch.bool), layout, 4).tolist() == [0.0, 0.0, 0.0]
