"""Data sets in Parquet, one row an image: NAME-train.parquet and NAME-test.parquet in one folder.

    column   type                         meaning
    image    binary, fixed_size_binary    an encoded image, or raw uint8 in the order height, width, channel
    label    integer                      0 .. classes - 1

The schema's metadata may say `class_names` (a JSON list), `height`, `width`, `channels`, and `encoding`; an encoding
that starts with "raw" (or a fixed_size_binary column) means raw, which needs the other three. Without metadata the size
is the first image's, the channels are 3 as soon as one image has colour, and the classes are those of the registered
data set or 0 .. the largest label.

The stem of the two files is the data set's name, or the name and its size: `miniimagenet` is found in
`miniimagenet64-train.parquet`. Rows in messages count from 0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fedknow_ray.errors import DataError, did_you_mean
from fedknow_ray.scenario.decoding import Cells, Geometry, decode, has_colour, measure, unpack
from fedknow_ray.scenario.images import Dataset, DatasetInfo, ImageSet, Labels, build_dataset

_SPLITS = ("train", "test")
_SIZE = ("height", "width", "channels")


@dataclass(frozen=True, slots=True)
class _Split:
    """One file as read: the image column undecoded, the labels checked to be present."""

    path: Path
    images: Any
    """pyarrow.ChunkedArray of bytes; None where only the labels were read."""
    raw: bool
    labels_N: NDArray[np.int64]
    metadata: Mapping[str, str]

    def cells(self, rows: NDArray[np.int64]) -> Cells:
        return Cells(self.path, rows.tolist(), self.images.take(pa.array(rows)).to_pylist())

    def all_cells(self) -> Cells:
        return self.cells(np.arange(len(self.labels_N)))

    @property
    def has_size(self) -> bool:
        """Whether the metadata says the size of an image, so that none need be looked at."""
        return all(key in self.metadata for key in _SIZE)


def load_parquet(name: str, root: Path | None, known: Mapping[str, DatasetInfo], classes: int | None = None) -> Dataset:
    """Return the data set *name* that lies under *root*, its first *classes* classes only where that is given.

    *known* are the registered data sets: they lend their number of classes to files that do not say it.

    Raises:
        DataError: if the files are missing or broken; the message names file, row and what to do.
    """
    train, test = _read_splits(name, root, known)
    info, class_names, geometry = _described(name, train, test, known)
    limit = info.classes if classes is None else classes
    return build_dataset(info, class_names, _image_set(train, geometry, limit), _image_set(test, geometry, limit))


def read_labels(name: str, root: Path | None, known: Mapping[str, DatasetInfo], classes: int | None = None) -> Labels:
    """Return the labels of what `load_parquet` returns; images are read only where the metadata lacks their size.

    Raises:
        DataError: as `load_parquet`, except for images that are broken.
    """
    train, test = _read_splits(name, root, known, images=False)
    if not train.has_size:
        train, test = _read_splits(name, root, known)
    info, _, _ = _described(name, train, test, known)
    limit = info.classes if classes is None else classes
    return Labels(info, *(split.labels_N[split.labels_N < limit] for split in (train, test)))


def _read_splits(
    name: str, root: Path | None, known: Mapping[str, DatasetInfo], *, images: bool = True
) -> tuple[_Split, _Split]:
    stem = find_stem(name, root, known)
    folder = Path() if root is None else root
    train, test = (_read_split(folder / f"{stem}-{split}.parquet", images=images) for split in _SPLITS)
    return train, test


def _described(
    name: str, train: _Split, test: _Split, known: Mapping[str, DatasetInfo]
) -> tuple[DatasetInfo, tuple[str, ...], Geometry]:
    """Return what the files are: the data set, the names of its classes, and the size of its images."""
    class_names = _class_names(train, test, known.get(name))
    geometry = _geometry(train, test)
    stem = train.path.name.removesuffix("-train.parquet")
    if stem != name and stem != f"{name}{geometry.height}":
        raise DataError(
            f"{train.path} was read as data set {name!r} at the size in its name, but its images are "
            f"{geometry.height}x{geometry.width}; rename it, or set "
            f"scenario.dataset={stem} with scenario.source=parquet"
        )
    return DatasetInfo(name, *geometry.shape, classes=len(class_names)), class_names, geometry


def find_stem(name: str, root: Path | None, known: Mapping[str, DatasetInfo]) -> str:
    """Return the stem under *root* that holds data set *name*: the name itself, or the name and its size.

    Raises:
        DataError: if there is none or more than one; the message names the files looked for and the stems there.
    """
    if root is None or not root.is_dir():
        reason = "scenario.data_root is not set" if root is None else f"the data root {root} is not a folder"
        if name not in known:
            reason += did_you_mean(name, known)
        raise DataError(_not_found(name, root, reason, known))
    present = _stems(root)
    complete = [stem for stem, splits in present.items() if len(splits) == len(_SPLITS)]
    if name in complete:
        return name
    # `cifar100` is a data set of its own, not `cifar10` at size 0.
    sized = [stem for stem in complete if stem not in known and re.fullmatch(re.escape(name) + r"[1-9][0-9]*", stem)]
    if len(sized) == 1:
        return sized[0]
    if sized:
        raise DataError(
            f"data set {name!r} is in {root} at several sizes ({', '.join(sized)}); "
            "name one of them in scenario.dataset, with scenario.source=parquet"
        )
    raise DataError(_not_found(name, root, f"{root} holds {_listed(present)}", known))


def _stems(root: Path) -> dict[str, list[str]]:
    """Return the stems under a folder with the splits that are there, sorted."""
    stems: dict[str, list[str]] = {}
    for path in sorted(root.glob("*.parquet")):
        # a pipe of such a name would be waited for
        if path.is_file() and (match := re.fullmatch(r"(.+)-(train|test)\.parquet", path.name)):
            stems.setdefault(match[1], []).append(match[2])
    return stems


def _listed(present: Mapping[str, list[str]]) -> str:
    if not present:
        return "no data set"
    missing = {stem: [split for split in _SPLITS if split not in splits] for stem, splits in present.items()}
    return ", ".join(
        stem + "".join(f" (without its {stem}-{split}.parquet)" for split in lacking)
        for stem, lacking in missing.items()
    )


def _not_found(name: str, root: Path | None, reason: str, known: Mapping[str, DatasetInfo]) -> str:
    files = " and ".join(str((root or Path()) / f"{name}-{split}.parquet") for split in _SPLITS)
    advice = "name the folder that holds them with --set scenario.data_root=DIR"
    if name in known and known[name].torchvision_name:
        advice += ", or let torchvision fetch the data with --set scenario.source=torchvision (needs a network)"
    return (
        f"data set {name!r} not found: looked for {files} (or {name}SIZE-train.parquet and so on, "
        f"with the image size in pixels); {reason}. To go on, {advice}"
    )


def _read_split(path: Path, *, images: bool) -> _Split:
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            _check_columns(path, schema)
            columns = ["image", "label"] if images else ["label"]
            table = file.read(columns=columns)
        labels = table["label"].cast(pa.int64())
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet, it is truncated or corrupt: {error}") from error
    if not len(table):
        raise DataError(f"{path} holds no images")
    for column in columns:
        if table[column].null_count:
            row = table[column].is_null().to_numpy().argmax()
            raise DataError(f"{path}, row {row}: the {column} is null")
    metadata = {key.decode(errors="replace"): value.decode(errors="replace") for key, value in _items(schema)}
    raw = metadata.get("encoding", "").lower().startswith("raw")
    raw = raw or pa.types.is_fixed_size_binary(schema.field("image").type)
    return _Split(path, table["image"] if images else None, raw, np.array(labels, np.int64), metadata)


def _items(schema: Any) -> list[tuple[bytes, bytes]]:
    return list((schema.metadata or {}).items())


def _check_columns(path: Path, schema: Any) -> None:
    lacking = [column for column in ("image", "label") if column not in schema.names]
    if lacking:
        raise DataError(f"{path} has no column {' and '.join(lacking)}; its columns are {', '.join(schema.names)}")
    image, label = schema.field("image").type, schema.field("label").type
    if not (pa.types.is_binary(image) or pa.types.is_large_binary(image) or pa.types.is_fixed_size_binary(image)):
        raise DataError(f"{path}: column image is {image}, it must be binary or fixed_size_binary")
    if not pa.types.is_integer(label):
        raise DataError(f"{path}: column label is {label}, it must be an integer")


def _class_names(train: _Split, test: _Split, info: DatasetInfo | None) -> tuple[str, ...]:
    """Return the names of all classes, and check that every label is one of them."""
    named = [names for names in (_named_classes(train), _named_classes(test)) if names is not None]
    if len(set(named)) > 1:
        raise DataError(f"{train.path} and {test.path} have different class_names in their metadata")
    if named:
        names = named[0]
    else:
        largest = max(int(train.labels_N.max()), int(test.labels_N.max()))
        names = tuple(str(label) for label in range(info.classes if info else largest + 1))
    for split in (train, test):
        wrong_N = (split.labels_N < 0) | (split.labels_N >= len(names))
        if wrong_N.any():
            row = int(wrong_N.argmax())
            raise DataError(
                f"{split.path}, row {row}: label {split.labels_N[row]} is outside 0..{len(names) - 1} "
                f"({len(names)} classes)"
            )
    return names


def _named_classes(split: _Split) -> tuple[str, ...] | None:
    text = split.metadata.get("class_names")
    if text is None:
        return None
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    if not isinstance(names, list) or not names:
        raise DataError(f"{split.path}: class_names in the schema's metadata must be a JSON list of names")
    return tuple(str(name) for name in names)


def _geometry(train: _Split, test: _Split) -> Geometry:
    """Return the size of the data set's images, from the train file's metadata or else from the images."""
    height, width, channels = (_metadata_int(train, key) for key in _SIZE)
    if train.raw:
        if height is None or width is None or channels is None:
            raise DataError(f"{train.path}: raw images need height, width and channels in the schema's metadata")
        return Geometry(height, width, channels)
    if height is None or width is None:
        height, width = measure(train.cells(np.array([0])))
    if channels is None:
        channels = 3 if has_colour(split.all_cells() for split in (train, test) if not split.raw) else 1
    return Geometry(height, width, channels)


def _metadata_int(split: _Split, key: str) -> int | None:
    text = split.metadata.get(key)
    if text is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise DataError(f"{split.path}: {key} in the schema's metadata is {text!r}, it must be a whole number above 0")
    return int(text)


def _image_set(split: _Split, geometry: Geometry, limit: int) -> ImageSet:
    """Return the decoded images whose label is below *limit*."""
    rows = np.flatnonzero(split.labels_N < limit)
    cells = split.cells(rows)
    return ImageSet((unpack if split.raw else decode)(cells, geometry), split.labels_N[rows])
