"""The digits that ship with scikit-learn."""

import numpy as np
import pytest

from fedknow_ray.errors import DataError
from fedknow_ray.scenario.bundled import is_test, load_bundled
from fedknow_ray.scenario.datasets import DATASETS


@pytest.fixture(scope="module")
def digits():
    return load_bundled(DATASETS.get("digits"))


def test_digits_hold_all_1797_images(digits):
    assert digits.train.images.shape[1:] == digits.test.images.shape[1:] == (8, 8, 1)
    assert len(digits.train) + len(digits.test) == 1797
    assert digits.class_names == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")


def test_digits_use_the_whole_range_of_uint8(digits):
    assert digits.train.images.dtype == np.uint8
    assert (digits.train.images.min(), digits.train.images.max()) == (0, 255)
    assert 16 in digits.train.images, "grey 1 of 16 is 15.94, rounded"


def test_a_fifth_of_each_class_is_test(digits):
    train, test = (np.bincount(split.labels) for split in (digits.train, digits.test))
    np.testing.assert_array_equal(test, (train + test) // 5)


def test_every_fifth_image_of_a_class_is_test():
    labels = np.array([0, 1] * 6)
    assert np.flatnonzero(is_test(labels)).tolist() == [8, 9]


def test_only_the_first_classes_are_kept_on_request(digits):
    few = load_bundled(DATASETS.get("digits"), classes=4)
    assert np.unique(few.train.labels).tolist() == [0, 1, 2, 3]
    assert few.info.classes == 10
    np.testing.assert_array_equal(few.test.images, digits.test.images[digits.test.labels < 4])


def test_another_data_set_is_not_bundled():
    with pytest.raises(DataError, match=r"'cifar10' is not bundled.*scenario.data_root"):
        load_bundled(DATASETS.get("cifar10"))
