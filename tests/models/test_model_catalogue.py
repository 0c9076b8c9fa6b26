"""Which images a network takes."""

from __future__ import annotations

import pytest

from fedknow_ray.models.catalogue import MODELS

CNN6 = MODELS.get("cnn6")


@pytest.mark.parametrize("size", [(8, 8, 1), (64, 64, 3), (8, 64, 3)])
def test_images_within_the_limits_suit(size: tuple[int, int, int]):
    assert CNN6.unsuitable(*size) is None


@pytest.mark.parametrize("size", [(7, 8, 1), (8, 65, 3), (224, 224, 3)])
def test_a_side_outside_the_limits_is_named(size: tuple[int, int, int]):
    assert CNN6.unsuitable(*size) == (
        f"cnn6 takes images of 8 to 64 pixels a side, and these are {size[0]} x {size[1]}"
    )


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channels_are_refused(channels: int):
    assert CNN6.unsuitable(32, 32, channels) == f"cnn6 takes images of 1 or 3 channels, and these have {channels}"
