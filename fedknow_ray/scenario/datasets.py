"""The data sets by name, and where each one is read from.

    source        read from
    bundled       an installed dependency (bundled.py): digits
    parquet       NAME-train.parquet and NAME-test.parquet under `data_root` (parquet.py); any stem there is a data set
    torchvision   fetched by torchvision into `data_root` (torchvision_source.py); needs a network the first time
    auto          bundled where the data set is bundled, else parquet

Third parties add a `DatasetInfo` through the entry-point group `fedknow_ray.datasets`.
"""

from __future__ import annotations

from pathlib import Path

from fedknow_ray.registry import Registry
from fedknow_ray.scenario.images import Dataset, DatasetInfo, ImageSet, Labels, dataset_digest

__all__ = ["DATASETS", "Dataset", "DatasetInfo", "ImageSet", "Labels", "dataset_digest", "load_dataset", "load_labels"]

DATASETS: Registry[DatasetInfo] = Registry("data set", "fedknow_ray.datasets")

for _info in (
    DatasetInfo("digits", 8, 8, 1, 10, bundled=True),
    DatasetInfo("mnist", 28, 28, 1, 10, torchvision_name="MNIST"),
    DatasetInfo("fashionmnist", 28, 28, 1, 10, torchvision_name="FashionMNIST"),
    DatasetInfo("cifar10", 32, 32, 3, 10, torchvision_name="CIFAR10"),
    DatasetInfo("cifar100", 32, 32, 3, 100, torchvision_name="CIFAR100"),
    DatasetInfo("gtsrb", 32, 32, 3, 43, torchvision_name="GTSRB"),
    DatasetInfo("miniimagenet", 64, 64, 3, 100),
    DatasetInfo("tinyimagenet", 64, 64, 3, 200),
):
    DATASETS.register(_info.name, _info)


def load_dataset(
    name: str, *, source: str = "auto", data_root: str | Path | None = None, classes: int | None = None
) -> Dataset:
    """Return a data set in memory; *classes* keeps only the images of the first so many classes, to save time.

    *source* is auto, bundled, parquet or torchvision (see the module's table).

    Raises:
        DataError: if the data is missing, broken, or not to be had from that source.
        UnknownNameError: if the source has no data set of that name.
        ValueError: if there is no such source.
    """
    root, source = _root(data_root), _source(name, source)
    # The sources are imported where they are used: pyarrow, scikit-learn and torchvision cost 0.1 to 2 s each.
    match source:
        case "bundled":
            from fedknow_ray.scenario.bundled import load_bundled

            return load_bundled(DATASETS.get(name), classes)
        case "parquet":
            from fedknow_ray.scenario.parquet import load_parquet

            return load_parquet(name, root, _known(), classes)
        case "torchvision":
            from fedknow_ray.scenario.torchvision_source import load_torchvision

            return load_torchvision(DATASETS.get(name), root, classes)
        case _:
            raise ValueError(f"source must be auto, bundled, parquet or torchvision, got {source!r}")


def load_labels(
    name: str, *, source: str = "auto", data_root: str | Path | None = None, classes: int | None = None
) -> Labels:
    """Return the labels of what `load_dataset` returns; of Parquet files the images are not decoded, which takes long.

    Raises:
        DataError: as `load_dataset`, except that broken images of Parquet files are not noticed.
        UnknownNameError: if the source has no data set of that name.
        ValueError: if there is no such source.
    """
    if _source(name, source) != "parquet":
        return load_dataset(name, source=source, data_root=data_root, classes=classes).labels
    from fedknow_ray.scenario.parquet import read_labels

    return read_labels(name, _root(data_root), _known(), classes)


def _root(data_root: str | Path | None) -> Path | None:
    return None if data_root is None else Path(data_root).expanduser()


def _source(name: str, source: str) -> str:
    """Return where a data set is read from, "auto" resolved."""
    if source != "auto":
        return source
    return "bundled" if name in DATASETS and DATASETS.get(name).bundled else "parquet"


def _known() -> dict[str, DatasetInfo]:
    return {name: DATASETS.get(name) for name in DATASETS.names()}
