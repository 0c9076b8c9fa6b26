"""Where a tensor lies in the flat vector."""

from __future__ import annotations

import pytest

from fedknow_ray.models.layout import TensorSlice


@pytest.mark.parametrize(
    ("shape", "size", "stop"), [((2, 3), 6, 10), ((), 1, 5), ((0, 7), 0, 4), ((3, 2, 2, 5), 60, 64)]
)
def test_size_and_stop_follow_from_the_shape(shape: tuple[int, ...], size: int, stop: int):
    piece = TensorSlice("x", 4, shape)
    assert (piece.size, piece.stop) == (size, stop)
