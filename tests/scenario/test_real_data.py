"""The real data sets in the folder that FEDKNOW_DATA names."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fedknow_ray.scenario import DATASETS, build_scenario, load_dataset

pytestmark = pytest.mark.data

ROWS = {
    "cifar10": (3000, 600),
    "fashionmnist": (10000, 2000),
    "gtsrb": (4300, 1075),
    "mnist": (5000, 1000),
}


@pytest.fixture(scope="module")
def data_root():
    folder = os.environ.get("FEDKNOW_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("set FEDKNOW_DATA to the folder with the real data sets (NAME-train.parquet, NAME-test.parquet)")
    return Path(folder)


@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_data_set_has_the_registered_size_and_all_its_rows(data_root, name):
    dataset, registered = load_dataset(name, data_root=data_root), DATASETS.get(name)
    size = (registered.height, registered.width, registered.channels)
    assert (len(dataset.train), len(dataset.test)) == ROWS[name]
    assert dataset.train.images.shape[1:] == dataset.test.images.shape[1:] == size
    assert len(dataset.class_names) == registered.classes
    assert min(dataset.mean) > 0.1 and max(dataset.std) < 0.4


@pytest.mark.parametrize(("name", "classes"), [("miniimagenet", 100), ("tinyimagenet", 200)])
def test_a_stem_with_the_size_is_read_by_its_name(data_root, name, classes):
    """Five classes only; Tiny ImageNet's hold grey images among the colour ones."""
    dataset = load_dataset(name, data_root=data_root, classes=5)
    assert dataset.info.classes == classes
    assert dataset.train.images.shape[1:] == (64, 64, 3)
    assert np.unique(dataset.train.labels).tolist() == [0, 1, 2, 3, 4]


def test_cifar100_gives_the_papers_first_task(data_root):
    dataset = load_dataset("cifar100", data_root=data_root, classes=10)
    assert (len(dataset.train), len(dataset.test), dataset.info.classes) == (5000, 1000, 100)
    partition = SimpleNamespace(name="shards", shards_per_client=5, reuse_across_tasks=True)
    config = SimpleNamespace(
        tasks=1, classes_per_task=10, clients=20, partition=partition, samples_per_client=240, task_order="same"
    )
    scenario = build_scenario(config, dataset, seed=1)
    assert {len(scenario.train_indices(client, 0)) for client in range(20)} == {240}
    assert {len(scenario.test_indices(client, 0)) for client in range(20)} == {50}
