"""Knowledge extraction: hand-computed masks, a sorting twin, and exact round trips."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedknow_ray.methods.fedknow import extractor
from fedknow_ray.methods.fedknow.extractor import Knowledge, keep_mask, kept_share_per_layer, pack, restore_weights
from fedknow_ray.models.layout import TensorSlice

# eleven weights: a 2 x 3 matrix, its bias of two, and a 1 x 3 matrix
LAYOUT = (TensorSlice("a.weight", 0, (2, 3)), TensorSlice("a.bias", 6, (2,)), TensorSlice("b.weight", 8, (1, 3)))
W = torch.tensor([0.1, -0.9, 0.2, 0.3, -0.4, 0.5, 9.0, 0.0, 0.6, -0.7, 0.05])
BIAS = [6, 7]


def kept(mask: torch.Tensor) -> list[int]:
    return mask.nonzero().flatten().tolist()


def sorting_twin(w: np.ndarray, candidates: list[int], count: int) -> list[int]:
    return sorted(sorted(candidates, key=lambda j: (-abs(w[j]), j))[:count])


def knowledge(mask: torch.Tensor | None = None) -> Knowledge:
    mask = keep_mask(W, LAYOUT, 0.3) if mask is None else mask
    return pack(2, (4, 6), W, mask, torch.arange(6.0).reshape(2, 3), torch.tensor([1.0, 2.0]))


def test_only_tensors_of_two_or_more_dimensions_are_prunable():
    assert kept(extractor.prunable_P(LAYOUT, 11)) == [0, 1, 2, 3, 4, 5, 8, 9, 10]


def test_a_layout_beyond_the_vector_is_refused():
    with pytest.raises(ValueError, match=r"'b.weight' lies at 8\.\.11, outside of 10 weights"):
        extractor.prunable_P(LAYOUT, 10)


def test_the_largest_magnitudes_are_kept_over_all_layers_and_biases_stay():
    """ceil(0.3 * 9) = 3 of |w| = .9 .7 .6 .5 ..."""
    assert kept(keep_mask(W, LAYOUT, 0.3)) == [1, *BIAS, 8, 9]


def test_per_layer_each_tensor_keeps_its_own_share():
    """ceil(0.3 * 6) = 2 and ceil(0.3 * 3) = 1."""
    assert kept(keep_mask(W, LAYOUT, 0.3, per_layer=True)) == [1, 5, *BIAS, 9]


def test_equal_magnitudes_go_to_the_lower_index():
    w_P = torch.tensor([1.0, -2.0, 1.0, -1.0, 1.0, 2.0])
    assert kept(keep_mask(w_P, LAYOUT[:1], 0.6)) == [0, 1, 2, 5]


def test_the_fraction_is_taken_as_the_decimal_that_was_written():
    """In binary floating point 0.07 * 100 is 7.000000000000001."""
    assert int(keep_mask(torch.arange(100.0), [TensorSlice("w", 0, (10, 10))], 0.07).sum()) == 7


def test_a_fraction_of_one_keeps_everything():
    assert bool(keep_mask(W, LAYOUT, 1.0).all())


def test_taken_weights_are_left_out():
    first_P = keep_mask(W, LAYOUT, 0.3)
    assert kept(keep_mask(W, LAYOUT, 0.3, taken_P=first_P)) == [3, 4, 5, *BIAS]


def test_when_few_weights_are_free_all_of_them_are_kept():
    taken_P = torch.ones(11, dtype=torch.bool)
    taken_P[[0, 10]] = False
    assert kept(keep_mask(W, LAYOUT, 0.5, taken_P=taken_P)) == [0, *BIAS, 10]


def test_when_no_weight_is_free_only_the_dense_ones_are_kept():
    assert kept(keep_mask(W, LAYOUT, 0.5, taken_P=torch.ones(11, dtype=torch.bool))) == BIAS


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1, float("nan")])
def test_a_fraction_outside_of_its_range_is_refused(fraction: float):
    with pytest.raises(ValueError, match="retained_fraction must be above 0 and at most 1"):
        keep_mask(W, LAYOUT, fraction)


def test_a_nan_is_refused_with_the_name_of_its_tensor():
    w_P = W.clone()
    w_P[9] = math.nan
    with pytest.raises(ValueError, match=r"NaN \(in b.weight\)"):
        keep_mask(w_P, LAYOUT, 0.5)


def test_the_weights_themselves_are_not_changed():
    before = W.clone()
    keep_mask(W, LAYOUT, 0.5)
    assert torch.equal(before, W)


@given(
    w=st.lists(st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0]), min_size=11, max_size=11),
    fraction=st.sampled_from([0.01, 0.1, 0.25, 0.5, 0.9]),
    taken=st.sets(st.sampled_from([0, 1, 2, 3, 4, 5, 8, 9, 10])),
)
def test_the_mask_is_that_of_a_full_sort(w: list[float], fraction: float, taken: set[int]):
    """Few distinct magnitudes, so nearly every example has ties at the threshold."""
    taken_P = torch.zeros(11, dtype=torch.bool)
    taken_P[list(taken)] = True
    free = [j for j in [0, 1, 2, 3, 4, 5, 8, 9, 10] if j not in taken]
    expected = sorted(sorting_twin(np.array(w), free, math.ceil(fraction * 9)) + BIAS)
    assert kept(keep_mask(torch.tensor(w), LAYOUT, fraction, taken_P=taken_P)) == expected


def test_the_share_of_each_prunable_tensor_is_reported():
    assert kept_share_per_layer(keep_mask(W, LAYOUT, 0.3), LAYOUT) == {"a.weight": 1 / 6, "b.weight": 2 / 3}


def test_mask_bits_are_packed_from_the_lowest_bit():
    """Kept are 1, 6, 7 | 8, 9."""
    assert knowledge().mask.tolist() == [0b11000010, 0b00000011]


def test_values_are_the_kept_weights_in_order_of_index():
    assert torch.equal(knowledge().values, W[[1, 6, 7, 8, 9]])


def test_restored_weights_are_the_kept_ones_and_zero_elsewhere():
    mask_P = keep_mask(W, LAYOUT, 0.3)
    assert torch.equal(restore_weights(knowledge(mask_P), 11), torch.where(mask_P, W, torch.zeros(11)))


@given(st.data())
def test_packing_and_restoring_is_exact_for_any_length(data: st.DataObject):
    mask_P = torch.tensor(data.draw(st.lists(st.booleans(), min_size=1, max_size=40)))
    w_P = torch.tensor(data.draw(st.lists(st.floats(width=32), min_size=len(mask_P), max_size=len(mask_P))))
    packed = pack(0, (0, 1), w_P, mask_P, torch.zeros(1, 2))
    restored_P = restore_weights(packed, len(mask_P))
    assert torch.equal(extractor.restore_mask(packed, len(mask_P)), mask_P)
    assert torch.equal(restored_P[mask_P].view(torch.int32), w_P[mask_P].view(torch.int32))
    assert not restored_P[~mask_P].any()


def test_knowledge_does_not_follow_later_training():
    w_P, head = W.clone(), torch.ones(1, 3)
    packed = pack(0, (0, 1), w_P, torch.ones(11, dtype=torch.bool), head)
    w_P.zero_()
    head.zero_()
    assert torch.equal(packed.values, W)
    assert torch.equal(packed.head, torch.ones(1, 3))


def test_arrays_give_the_same_knowledge_back():
    arrays = knowledge().to_arrays()
    for array in arrays.values():
        array.setflags(write=False)
    again = Knowledge.from_arrays(arrays)
    assert (again.task_index, again.class_rows) == (2, (4, 6))
    for name in ("mask", "values", "head", "statistics"):
        assert torch.equal(getattr(again, name), getattr(knowledge(), name))
        assert getattr(again, name).dtype == getattr(knowledge(), name).dtype


def test_stored_bytes_are_counted_to_the_byte():
    """Two bytes of mask, five values, six head entries, two statistics, three integers of 64 bits."""
    assert knowledge().stored_bytes == 2 + 4 * 5 + 4 * 6 + 4 * 2 + 8 * 4


def test_stored_bytes_are_those_of_the_saved_arrays():
    assert knowledge().stored_bytes == sum(array.nbytes for array in knowledge().to_arrays().values())


def test_knowledge_of_another_network_is_refused():
    with pytest.raises(ValueError, match="task 2 is not that of a network with 100 weights"):
        restore_weights(knowledge(), 100)


def test_a_mask_of_another_length_is_refused():
    with pytest.raises(ValueError, match="the mask has 3 entries for 11 weights"):
        pack(0, (0, 1), W, torch.ones(3, dtype=torch.bool), torch.zeros(1, 2))


def test_head_rows_of_other_classes_are_refused():
    with pytest.raises(ValueError, match=r"1 head rows for classes 0\.\.2"):
        pack(0, (0, 2), W, torch.ones(11, dtype=torch.bool), torch.zeros(1, 2))


def test_all_weights_kept_need_no_mask():
    everything = knowledge(torch.ones(11, dtype=torch.bool))
    assert everything.mask.numel() == 0
    assert torch.equal(restore_weights(everything, 11), W)


@pytest.mark.parametrize("fraction", [0.5, 1.0])
@pytest.mark.parametrize("bits", [4, 8])
def test_rounded_knowledge_keeps_what_is_not_prunable_exactly(bits: int, fraction: float):
    mask_P = keep_mask(W, LAYOUT, fraction)
    packed = pack(0, (0, 1), W, mask_P, torch.zeros(1, 2), layout=LAYOUT, bits=bits)
    restored_P = restore_weights(Knowledge.from_arrays(packed.to_arrays()), 11, LAYOUT)
    assert torch.equal(restored_P[BIAS], W[BIAS])
    assert not restored_P[~mask_P].any()
    torch.testing.assert_close(restored_P[mask_P], W[mask_P], rtol=0, atol=float(W.abs().max()) / (2 ** (bits - 1) - 1))


def test_rounded_knowledge_without_the_layout_is_refused():
    packed = pack(0, (0, 1), W, torch.ones(11, dtype=torch.bool), torch.zeros(1, 2), layout=LAYOUT, bits=4)
    with pytest.raises(ValueError, match="is not that of a network with 11 weights"):
        restore_weights(packed, 11)
