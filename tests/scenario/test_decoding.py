"""Cells of an image column become one array; a broken one is told by file and row."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedknow_ray.errors import DataError
from fedknow_ray.scenario.decoding import Cells, Geometry, decode, has_colour, measure, unpack

RED = np.tile(np.array([200, 10, 20], np.uint8), (2, 3, 1))
GREY = np.arange(6, dtype=np.uint8).reshape(2, 3)


def _encoded(pixels, kind="PNG"):
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def _cells(*contents):
    """Cells that stand in the rows 10, 11, ... of x.parquet."""
    return Cells(Path("x.parquet"), range(10, 10 + len(contents)), contents)


def test_png_is_decoded_without_loss():
    np.testing.assert_array_equal(decode(_cells(_encoded(RED)), Geometry(2, 3, 3))[0], RED)


def test_jpeg_is_decoded_nearly():
    images = decode(_cells(_encoded(RED, "JPEG")), Geometry(2, 3, 3))
    assert np.abs(images[0].astype(int) - RED).max() < 6


def test_grey_among_colour_becomes_three_equal_channels():
    images = decode(_cells(_encoded(RED), _encoded(GREY)), Geometry(2, 3, 3))
    np.testing.assert_array_equal(images[1], np.repeat(GREY[..., np.newaxis], 3, axis=2))


def test_colour_becomes_grey_in_a_grey_data_set():
    """ITU-R 601: (299 x 200 + 587 x 10 + 114 x 20) / 1000 = 67.95."""
    images = decode(_cells(_encoded(RED)), Geometry(2, 3, 1))
    assert images.shape == (1, 2, 3, 1)
    assert set(images.ravel().tolist()) == {68}


def test_another_size_is_refused_with_row_and_both_sizes():
    wide = _encoded(np.zeros((2, 5), np.uint8))
    with pytest.raises(DataError, match=r"x\.parquet, row 11: the image is 2x5 .*, the data set is 2x3"):
        decode(_cells(_encoded(GREY), wide), Geometry(2, 3, 1))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_truncated_image_is_refused_with_its_row(kind):
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    whole = _encoded(noise, kind)
    with pytest.raises(DataError, match=r"row 11: broken image"):
        decode(_cells(whole, whole[: len(whole) * 2 // 3]), Geometry(16, 16, 3))


def test_bytes_that_are_no_image_are_refused_with_their_row():
    with pytest.raises(DataError, match=r"row 10: broken image \(Pillow recognises no image format in it\)$"):
        decode(_cells(b"hello"), Geometry(2, 3, 1))


def test_sixteen_bit_images_are_refused_rather_than_clipped():
    with pytest.raises(DataError, match=r"row 10: the image has mode I;16, only 8-bit"):
        decode(_cells(_encoded(GREY.astype(np.uint16))), Geometry(2, 3, 1))


def test_encoded_images_of_two_channels_are_refused():
    with pytest.raises(DataError, match=r"have 1 or 3 channels, the metadata says 2"):
        decode(_cells(_encoded(GREY)), Geometry(2, 3, 2))


def test_raw_bytes_are_height_width_channel():
    images = unpack(_cells(RED.tobytes(), bytes(18)), Geometry(2, 3, 3))
    np.testing.assert_array_equal(images[0], RED)
    assert not images[1].any()


def test_raw_bytes_of_another_length_are_refused():
    with pytest.raises(DataError, match=r"row 11: 5 bytes, but a raw 2x3x1 image has 6"):
        unpack(_cells(bytes(6), bytes(5)), Geometry(2, 3, 1))


def test_no_cells_give_an_empty_array_of_the_right_shape():
    for function in (decode, unpack):
        assert function(_cells(), Geometry(2, 3, 1)).shape == (0, 2, 3, 1)


def test_measure_gives_height_before_width():
    assert measure(_cells(_encoded(GREY))) == (2, 3)


def test_colour_is_found_in_any_split():
    grey, colour = _cells(_encoded(GREY)), _cells(_encoded(GREY), _encoded(RED))
    assert has_colour([grey, colour])
    assert not has_colour([grey, grey])
