"""From the bytes in an image column to one uint8 array (N, H, W, C).

Encoded cells (PNG, JPEG, WebP: whatever Pillow reads) are converted to the channels of the data set, so that a grey
image among colour ones becomes three equal channels. Raw cells are H * W * C bytes in the order height, width, channel.
Rows in messages count from 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedknow_ray.errors import DataError

_GREY_MODES = frozenset({"1", "L", "LA", "La"})
_PILLOW_MODE = {1: "L", 3: "RGB"}


@dataclass(frozen=True, slots=True)
class Geometry:
    """The one size that all images of a data set have."""

    height: int
    width: int
    channels: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.height, self.width, self.channels

    @property
    def image_bytes(self) -> int:
        """Bytes of one raw image."""
        return self.height * self.width * self.channels


@dataclass(frozen=True, slots=True)
class Cells:
    """The image cells of one file and the row that each one stands in."""

    path: Path
    rows: Sequence[int]
    contents: Sequence[bytes]

    def fault(self, index: int, what: str) -> DataError:
        """Return the error for one cell: file, row, what."""
        return DataError(f"{self.path}, row {self.rows[index]}: {what}")


def decode(cells: Cells, geometry: Geometry) -> NDArray[np.uint8]:
    """Return the encoded images as (N, H, W, C).

    Raises:
        DataError: for a cell that Pillow cannot read, is not 8-bit, or has another size.
    """
    images_NHWC = np.empty((len(cells.contents), *geometry.shape), np.uint8)
    mode = _PILLOW_MODE.get(geometry.channels)
    if mode is None:
        raise DataError(f"{cells.path}: encoded images have 1 or 3 channels, the metadata says {geometry.channels}")
    for index in range(len(cells.contents)):
        images_NHWC[index] = _pixels(cells, index, geometry, mode)
    return images_NHWC


def unpack(cells: Cells, geometry: Geometry) -> NDArray[np.uint8]:
    """Return the raw images as (N, H, W, C).

    Raises:
        DataError: for a cell whose length is not H * W * C.
    """
    for index, content in enumerate(cells.contents):
        if len(content) != geometry.image_bytes:
            size = "x".join(map(str, geometry.shape))
            raise cells.fault(index, f"{len(content)} bytes, but a raw {size} image has {geometry.image_bytes}")
    pixels = np.frombuffer(bytearray().join(cells.contents), np.uint8)
    return pixels.reshape(len(cells.contents), *geometry.shape)


def measure(cells: Cells) -> tuple[int, int]:
    """Return (height, width) of the first encoded image; reads its header only."""
    with _opened(cells, 0) as image:
        return image.height, image.width


def has_colour(splits: Iterable[Cells]) -> bool:
    """Return whether any encoded image is a colour image; reads headers up to the first that is."""
    for cells in splits:
        for index in range(len(cells.contents)):
            with _opened(cells, index) as image:
                if image.mode not in _GREY_MODES:
                    return True
    return False


def _pixels(cells: Cells, index: int, geometry: Geometry, mode: str) -> NDArray[np.uint8]:
    with _opened(cells, index) as image:
        if (image.height, image.width) != (geometry.height, geometry.width):
            raise cells.fault(
                index,
                f"the image is {image.height}x{image.width} (height x width), the data set is "
                f"{geometry.height}x{geometry.width}; all images of a data set must have one size",
            )
        if image.mode.startswith(("I", "F")):
            raise cells.fault(index, f"the image has mode {image.mode}, only 8-bit images can be read")
        try:
            converted = image if image.mode == mode else image.convert(mode)
            return np.asarray(converted, np.uint8).reshape(geometry.shape)
        except Exception as error:  # Pillow's decoders raise many types on broken bytes; none may pass without its row
            raise cells.fault(index, f"broken image ({error})") from error


def _opened(cells: Cells, index: int) -> Image.Image:
    try:
        return Image.open(BytesIO(cells.contents[index]))
    except Exception as error:  # as in _pixels; the message of Pillow names a buffer's address, so it is left out
        raise cells.fault(index, "broken image (Pillow recognises no image format in it)") from error
