"""What a run was made with."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from small import write_config

from fedknow_ray.config.loading import dump_yaml
from fedknow_ray.config.model import RunConfig
from fedknow_ray.experiment import manifest as module
from fedknow_ray.experiment.catalogue import DEVICES
from fedknow_ray.experiment.manifest import make_manifest
from fedknow_ray.experiment.run import read_config
from fedknow_ray.scenario.datasets import dataset_digest, load_dataset
from fedknow_ray.simulation.device import Figure
from fedknow_ray.transport.payload import encode, payload_sha256

DIGITS = load_dataset("digits")
START = encode({"features": np.ones(3, np.float32)})


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return read_config(write_config(tmp_path))


def make(config: RunConfig) -> dict:
    devices = [DEVICES.get(name) for name in config.devices]
    return make_manifest("small", config, DIGITS, START, devices, "local", 0)


def test_it_is_plain_json(config: RunConfig):
    made = make(config)
    assert json.loads(json.dumps(made)) == made


def test_it_names_run_seed_backend_and_versions(config: RunConfig):
    made = make(config)
    assert (made["name"], made["seed"], made["backend"], made["schema_version"]) == ("small", 1, "local", 1)
    assert made["versions"]["torch"] == version("torch")
    assert made["versions"].keys() >= {"python", "fedknow-ray", "ray", "numpy"}


def test_a_package_that_is_not_there_has_no_version(config: RunConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "PACKAGES", ("no-such-package",))
    assert make(config)["versions"]["no-such-package"] is None


def test_digests_are_those_of_config_data_and_start(config: RunConfig):
    digests = make(config)["digests"]
    assert len(digests.pop("devices_sha256")) == 64
    assert digests == {
        "config_sha256": sha256(dump_yaml(config).encode()).hexdigest(),
        "dataset_sha256": dataset_digest(DIGITS),
        "initial_parameters_sha256": payload_sha256(START),
    }


def test_the_start_is_a_time_with_its_zone(config: RunConfig):
    assert datetime.fromisoformat(make(config)["started_at"]).utcoffset() is not None


def test_estimated_numbers_of_each_device_are_named(config: RunConfig):
    estimated = make(config)["estimated_device_fields"]
    assert estimated.keys() == {"jetson-nano", "raspberry-pi-4-4gb"}
    for name, fields in estimated.items():
        assert fields == sorted(fields)
        assert all(DEVICES.get(name).figures[field].basis == "estimated" for field in fields)


def test_it_holds_each_device_as_it_was_used(config: RunConfig):
    devices = make(config)["devices"]
    nano = DEVICES.get("jetson-nano")
    assert list(devices) == ["jetson-nano", "raspberry-pi-4-4gb"]
    assert devices["jetson-nano"]["title"] == nano.title
    assert {key: Figure(**figure) for key, figure in devices["jetson-nano"]["figures"].items()} == nano.figures


def test_another_number_of_a_device_is_another_digest(config: RunConfig):
    nano, pi = (DEVICES.get(name) for name in ("jetson-nano", "raspberry-pi-4-4gb"))
    slower = replace(nano, figures={**nano.figures, "busy_w": replace(nano.figures["busy_w"], value=9.0)})
    first, again, other = (
        make_manifest("small", config, DIGITS, START, devices, "local", 0)["digests"]["devices_sha256"]
        for devices in ([nano, pi], [pi, nano, nano], [slower, pi])
    )
    assert first == again != other


def test_the_host_is_described_without_naming_it(config: RunConfig):
    host = make(config)["host"]
    assert host.keys() == {"platform", "machine", "cores", "memory_bytes"}
    assert host["cores"] >= 1
