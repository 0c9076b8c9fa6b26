"""Models as one vector of weights, and back."""

from __future__ import annotations

import numpy as np
import pytest

from fedknow_ray.transport.update_layout import UpdateLayout

#: Two tensors of 2 and 3 weights, two statistics, and a global head of 2 x 2.
WHOLE = UpdateLayout((2, 3), statistics=2, head=(2, 2))


def test_a_layout_takes_a_model_apart_and_puts_it_together():
    """Features are 5 weights and 2 statistics; the head follows the weights, row by row."""
    features_S = np.array([1, 2, 3, 4, 5, 8, 9], np.float32)
    model = {"features": features_S, "head": np.array([[6, 7], [-6, -7]], np.float32)}
    weights_N, statistics_B = WHOLE.split(model)
    assert (weights_N.tolist(), statistics_B.tolist()) == ([1, 2, 3, 4, 5, 6, 7, -6, -7], [8, 9])
    again = WHOLE.join(weights_N, statistics_B)
    assert again.keys() == model.keys()
    for key, array in model.items():
        np.testing.assert_array_equal(again[key], array)


def test_the_head_is_the_last_tensor():
    assert (WHOLE.pieces, WHOLE.N) == ((2, 3, 4), 9)
    assert (UpdateLayout((2, 3)).pieces, UpdateLayout((2, 3)).N) == ((2, 3), 5)


@pytest.mark.parametrize("tensors", [(), (2, 0)])
def test_a_layout_without_values_is_refused(tensors: tuple[int, ...]):
    with pytest.raises(ValueError, match="at least one value"):
        UpdateLayout(tensors)
