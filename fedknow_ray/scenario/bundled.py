"""Data sets that ship with an installed dependency: the handwritten digits of scikit-learn.

1,797 images of 8x8 grey values 0..16 (Alpaydin & Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine
Learning Repository, 1998). They come without a split: every fifth image of a class, in the order of the file, is test.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedknow_ray.errors import DataError
from fedknow_ray.scenario.images import Dataset, DatasetInfo, ImageSet, build_dataset

_TEST_EVERY = 5
_DIGITS_MAXIMUM = 16


def load_bundled(info: DatasetInfo, classes: int | None = None) -> Dataset:
    """Return the bundled data set, with the images of its first *classes* classes only where that is given.

    Raises:
        DataError: if the data set of that name is not a bundled one.
    """
    if info.name != "digits":
        raise DataError(
            f"data set {info.name!r} is not bundled; set scenario.source=parquet with scenario.data_root=DIR, "
            "or scenario.dataset=digits"
        )
    images_NHWC, labels_N = _digits()
    test_N = is_test(labels_N)
    wanted_N = labels_N < (info.classes if classes is None else classes)
    train, test = (
        ImageSet(images_NHWC[wanted_N & split_N], labels_N[wanted_N & split_N]) for split_N in (~test_N, test_N)
    )
    return build_dataset(info, tuple(str(label) for label in range(info.classes)), train, test)


def is_test(labels_N: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which images are test: the 5th, 10th, ... of each class.

    >>> is_test(np.array([0, 0, 0, 0, 1, 0])).tolist()
    [False, False, False, False, False, True]
    """
    test_N = np.zeros(len(labels_N), np.bool_)
    for label in np.unique(labels_N):
        test_N[np.flatnonzero(labels_N == label)[_TEST_EVERY - 1 :: _TEST_EVERY]] = True
    return test_N


def _digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    # Imported here: scikit-learn takes 0.6 s, which no other data set should pay.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images_NHW = np.rint(bunch.images * (255 / _DIGITS_MAXIMUM)).astype(np.uint8)
    return images_NHW[..., np.newaxis], bunch.target.astype(np.int64)
