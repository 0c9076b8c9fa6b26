"""The torchvision source against stand-ins for torchvision's classes: no network, no download."""

import sys
from types import ModuleType, SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image

from fedknow_ray.errors import DataError
from fedknow_ray.scenario.datasets import DATASETS, load_dataset
from fedknow_ray.scenario.torchvision_source import DEFAULT_ROOT


class _Split(list):
    """As torchvision's data sets: a sequence of (PIL image, label)."""


@pytest.fixture
def torchvision(monkeypatch):
    """A torchvision whose `datasets` the test fills; importing the real one takes seconds."""
    module = ModuleType("torchvision")
    module.datasets = SimpleNamespace(calls=[])
    monkeypatch.setitem(sys.modules, "torchvision", module)
    return module.datasets


def _image(shade, size=(32, 32), mode="RGB"):
    return Image.new(mode, size, (shade,) * 3 if mode == "RGB" else shade)


def _class(torchvision, items, classes=None):
    def opened(**arguments):
        torchvision.calls.append(arguments)
        split = _Split(items)
        if classes:
            split.classes = classes
        return split

    return opened


def test_images_labels_and_names_are_taken_over(torchvision, tmp_path):
    items = [(_image(10), 3), (_image(20), 0)]
    torchvision.CIFAR10 = _class(torchvision, items, classes=[f"class {label}" for label in range(10)])
    dataset = load_dataset("cifar10", source="torchvision", data_root=tmp_path)
    assert dataset.info == DATASETS.get("cifar10")
    assert dataset.train.images.shape == (2, 32, 32, 3)
    assert dataset.train.images[:, 5, 5, 1].tolist() == [10, 20]
    assert dataset.test.labels.tolist() == [3, 0]
    assert dataset.class_names[3] == "class 3"


def test_both_splits_are_fetched_into_the_data_root(torchvision, tmp_path):
    torchvision.CIFAR10 = _class(torchvision, [(_image(10), 0)])
    load_dataset("cifar10", source="torchvision", data_root=tmp_path)
    assert torchvision.calls == [
        {"root": str(tmp_path), "download": True, "train": True},
        {"root": str(tmp_path), "download": True, "train": False},
    ]


def test_without_a_data_root_the_default_folder_is_used(torchvision):
    torchvision.MNIST = _class(torchvision, [(_image(10, (28, 28), "L"), 0)])
    assert load_dataset("mnist", source="torchvision").train.images.shape == (1, 28, 28, 1)
    assert torchvision.calls[0]["root"] == str(DEFAULT_ROOT)


def test_traffic_signs_are_resampled_to_one_size_and_named_by_number(torchvision, tmp_path):
    torchvision.GTSRB = _class(torchvision, [(_image(10, (15, 20)), 0), (_image(20, (250, 240)), 42)])
    dataset = load_dataset("gtsrb", source="torchvision", data_root=tmp_path)
    assert dataset.train.images.shape == (2, 32, 32, 3)
    assert dataset.class_names[42] == "42"
    assert [call["split"] for call in torchvision.calls] == ["train", "test"]


def test_only_the_first_classes_are_kept_on_request(torchvision, tmp_path):
    torchvision.CIFAR10 = _class(torchvision, [(_image(10), 3), (_image(20), 0), (_image(30), 1)])
    dataset = load_dataset("cifar10", source="torchvision", data_root=tmp_path, classes=2)
    np.testing.assert_array_equal(dataset.train.labels, [0, 1])


def test_no_image_of_the_wanted_classes_gives_an_empty_split(torchvision, tmp_path):
    torchvision.CIFAR10 = _class(torchvision, [(_image(10), 3)])
    dataset = load_dataset("cifar10", source="torchvision", data_root=tmp_path, classes=2)
    assert dataset.train.images.shape == (0, 32, 32, 3)


@pytest.mark.parametrize("error", [URLError("no route to host"), RuntimeError("no route to host")])
def test_a_failed_download_says_what_to_do_instead(torchvision, tmp_path, error):
    def failing(**_):
        raise error

    torchvision.CIFAR10 = failing
    with pytest.raises(DataError) as caught:
        load_dataset("cifar10", source="torchvision", data_root=tmp_path)
    message = str(caught.value)
    assert "no route to host" in message
    assert str(tmp_path) in message
    assert "--set scenario.data_root=DIR" in message


def test_a_data_set_that_torchvision_cannot_fetch_is_refused():
    with pytest.raises(DataError, match=r"torchvision cannot fetch data set 'miniimagenet'"):
        load_dataset("miniimagenet", source="torchvision")
