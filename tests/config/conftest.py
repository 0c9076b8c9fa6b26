"""A small catalogue, and `faults_of` / `load`: configs from text, so that line numbers can be counted by eye."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import BaseModel
from small_hypers import FedAvgHyper, FedKnowHyper

from fedknow_ray.config import Catalogue, load_config
from fedknow_ray.errors import ConfigError, Fault
from fedknow_ray.registry import Registry


@dataclass(frozen=True)
class Method:
    hyperparameters: type[BaseModel]
    needs_local_head: bool = False

    def conflicts(self, hyper, config):
        if self.needs_local_head and config.model.head == "global":
            yield ("model", "head"), f"cannot be global in {config.training.local_epochs} epochs"


@dataclass(frozen=True)
class Network:
    smallest: int

    def unsuitable(self, height: int, width: int, channels: int) -> str | None:
        return f"it needs {self.smallest} x {self.smallest} pixels" if min(height, width) < self.smallest else None


@dataclass(frozen=True)
class Data:
    height: int
    width: int
    channels: int
    classes: int
    bundled: bool = False
    torchvision_name: str | None = None


def registry(kind, entries):
    filled = Registry(kind)
    for name, entry in entries.items():
        filled.register(name, entry)
    return filled


DEVICES = ("jetson-nano", "jetson-tx2", "jetson-xavier-nx", "jetson-agx-xavier", "raspberry-pi-4-4gb")

DATASETS = {
    "cifar100": Data(32, 32, 3, 100, torchvision_name="CIFAR100"),
    "digits": Data(8, 8, 1, 10, bundled=True),
    "miniimagenet": Data(64, 64, 3, 100),
}


def with_own_devices(path):
    """The shipped devices and, for each file of the folder, one of its name; a file says its fault, if it has one."""
    if not path.is_dir():
        raise ConfigError([Fault(str(path), "", "there is no such folder")])
    texts = {file: file.read_text() for file in sorted(path.iterdir())}
    if any(texts.values()):
        raise ConfigError([Fault(str(file), "busy_w.basis", text) for file, text in texts.items() if text])
    return registry("device", {name: object() for name in (*DEVICES, *(file.stem for file in texts))})


@pytest.fixture(scope="session")
def catalogue():
    return Catalogue(
        methods=registry(
            "method",
            {"fedknow": Method(FedKnowHyper), "fedavg": Method(FedAvgHyper), "fedrep": Method(FedAvgHyper, True)},
        ),
        models=registry(
            "model", {"cnn6": Network(8), "cnn6_half": Network(8), "cnn6_quarter": Network(8), "resnet18": Network(32)}
        ),
        datasets=registry("data set", DATASETS),
        devices=registry("device", {name: object() for name in DEVICES}),
        with_own_devices=with_own_devices,
    )


@pytest.fixture
def load(tmp_path, monkeypatch, catalogue):
    """Load a config from its text, as the file "x.yaml"."""
    monkeypatch.chdir(tmp_path)

    def load_text(text="{}", *options, overrides=None):
        Path("x.yaml").write_text(text, encoding="utf-8")
        return load_config("x.yaml", options if overrides is None else overrides, catalogue=catalogue)

    return load_text


@pytest.fixture
def faults_of(load):
    """Return the faults of a config's text, each as its message line."""

    def faults(text="{}", *options, overrides=None):
        with pytest.raises(ConfigError) as caught:
            load(text, *options, overrides=overrides)
        return [str(fault) for fault in caught.value.faults]

    return faults
