"""Data sets that torchvision fetches, for users who have a network.

Images of another size than the registered one (GTSRB's signs are 15 to 250 pixels wide) are resampled with Lanczos.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedknow_ray.errors import DataError
from fedknow_ray.scenario.images import Dataset, DatasetInfo, ImageSet, build_dataset

DEFAULT_ROOT = Path("data")
"""Where torchvision keeps its files if no data root is set, relative to the working directory."""

_SPLIT_ARGUMENTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "GTSRB": ({"split": "train"}, {"split": "test"}),
}


def load_torchvision(info: DatasetInfo, root: Path | None, classes: int | None = None) -> Dataset:
    """Return the data set as torchvision has it, fetched into *root* if it is not there yet.

    Raises:
        DataError: if torchvision has no such data set, cannot fetch it, or finds broken files.
    """
    if info.torchvision_name is None:
        instead = "scenario.source=bundled" if info.bundled else "scenario.source=parquet with scenario.data_root=DIR"
        raise DataError(f"torchvision cannot fetch data set {info.name!r}; use {instead}")
    folder = DEFAULT_ROOT if root is None else root
    train_arguments, test_arguments = _SPLIT_ARGUMENTS.get(info.torchvision_name, ({"train": True}, {"train": False}))
    train = _open(info, folder, train_arguments)
    test = _open(info, folder, test_arguments)
    limit = info.classes if classes is None else min(classes, info.classes)
    names = getattr(train, "classes", None) or range(info.classes)
    return build_dataset(
        info, tuple(str(name) for name in names), _image_set(train, info, limit), _image_set(test, info, limit)
    )


def _open(info: DatasetInfo, folder: Path, arguments: dict[str, Any]) -> Any:
    """Return torchvision's own data set object for one split, downloading it if need be."""
    try:
        from torchvision import datasets

        return getattr(datasets, str(info.torchvision_name))(root=str(folder), download=True, **arguments)
    except (OSError, RuntimeError) as error:
        # URLError is an OSError; torchvision reports a failed or corrupt download as RuntimeError.
        raise DataError(
            f"torchvision could not fetch data set {info.name!r} into {folder}: {error}. It needs a network the first "
            "time; without one put Parquet files in a folder and use scenario.source=parquet with "
            "--set scenario.data_root=DIR, or use scenario.dataset=digits, which is bundled"
        ) from error


def _image_set(split: Any, info: DatasetInfo, limit: int) -> ImageSet:
    """Return the images whose label is below *limit* as one array of the registered size and channels."""
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    mode = "L" if info.channels == 1 else "RGB"
    for index in range(len(split)):
        image, label = split[index]
        if int(label) < limit:
            images.append(_resized(image.convert(mode), info))
            labels.append(int(label))
    shape = (len(images), info.height, info.width, info.channels)
    pixels = np.stack(images) if images else np.empty(shape, np.uint8)
    return ImageSet(pixels.reshape(shape), np.array(labels, np.int64))


def _resized(image: Image.Image, info: DatasetInfo) -> NDArray[np.uint8]:
    size = (info.width, info.height)
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    return np.asarray(image, np.uint8)
