"""The registry of data sets and the choice of a source."""

import subprocess
import sys

import pytest

from fedknow_ray.errors import DataError, UnknownNameError
from fedknow_ray.scenario.datasets import DATASETS, load_dataset, load_labels


def test_all_built_in_data_sets_are_registered():
    assert {
        "cifar10", "cifar100", "digits", "fashionmnist", "gtsrb", "miniimagenet", "mnist", "tinyimagenet",
    } <= set(DATASETS.names())  # fmt: skip


def test_every_entry_carries_its_own_name():
    assert all(DATASETS.get(name).name == name for name in DATASETS.names())


def test_auto_reads_a_bundled_data_set_without_a_data_root():
    assert load_dataset("digits").info == DATASETS.get("digits")


def test_auto_reads_any_other_data_set_from_parquet(tmp_path):
    with pytest.raises(DataError, match=r"cifar100-train\.parquet"):
        load_dataset("cifar100", data_root=tmp_path)


def test_the_data_root_may_be_a_string_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DataError, match=str(tmp_path / "data")):
        load_dataset("cifar100", data_root="~/data")


def test_bundled_refuses_what_is_not_bundled():
    with pytest.raises(DataError, match=r"'mnist' is not bundled"):
        load_dataset("mnist", source="bundled")


@pytest.mark.parametrize("source", ["bundled", "torchvision"])
def test_an_unknown_name_is_told_the_nearest(source):
    with pytest.raises(UnknownNameError, match=r"unknown data set 'cifar11'; did you mean 'cifar1"):
        load_dataset("cifar11", source=source)


def test_an_unknown_source_is_refused():
    with pytest.raises(ValueError, match=r"source must be auto, bundled, parquet or torchvision, got 'web'"):
        load_dataset("mnist", source="web")


def test_listing_data_sets_imports_no_reader():
    code = (
        "import sys; from fedknow_ray.scenario.datasets import DATASETS; DATASETS.names();"
        "print([name for name in ('torch', 'torchvision', 'ray', 'sklearn', 'pyarrow', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_labels_alone_are_those_of_the_data_set():
    dataset, labels = load_dataset("digits", classes=4), load_labels("digits", classes=4)
    assert labels.info == dataset.info
    assert (labels.train_N.tolist(), labels.test_N.tolist()) == (
        dataset.train.labels.tolist(),
        dataset.test.labels.tolist(),
    )


def test_labels_of_any_other_data_set_are_read_from_parquet(tmp_path):
    with pytest.raises(DataError, match=r"cifar100-train\.parquet"):
        load_labels("cifar100", data_root=tmp_path)
