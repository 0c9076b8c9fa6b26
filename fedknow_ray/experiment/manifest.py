"""The manifest: what a run was made with, so that it can be made again and told apart. Written before round 0."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from operator import attrgetter
from typing import Any

from fedknow_ray.config.loading import dump_yaml
from fedknow_ray.config.model import RunConfig
from fedknow_ray.results.schema import SCHEMA_VERSION
from fedknow_ray.scenario.datasets import Dataset, dataset_digest
from fedknow_ray.simulation.device import Device
from fedknow_ray.transport.payload import Buffer, payload_sha256

PACKAGES = ("fedknow-ray", "ray", "torch", "torchvision", "numpy", "pyarrow", "scipy", "scikit-learn", "pydantic")


def make_manifest(
    name: str, config: RunConfig, dataset: Dataset, start: Buffer, devices: Iterable[Device], backend: str
) -> dict[str, Any]:
    """Return the manifest of a run: versions, digests, host, seed, and the devices as they were, estimates named."""
    used = sorted(set(devices), key=attrgetter("name"))
    profiles = {device.name: _profile(device) for device in used}
    return {
        "name": name,
        "schema_version": SCHEMA_VERSION,
        "seed": config.seed,
        "backend": backend,
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{package: _version(package) for package in PACKAGES}},
        "digests": {
            "config_sha256": sha256(dump_yaml(config).encode()).hexdigest(),
            "dataset_sha256": dataset_digest(dataset),
            "initial_parameters_sha256": payload_sha256(start),
            "devices_sha256": sha256(json.dumps(profiles, sort_keys=True).encode()).hexdigest(),
        },
        "host": {
            "platform": platform.platform(),
            "machine": platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        },
        "estimated_device_fields": {device.name: _estimated(device) for device in used},
        "devices": profiles,
    }


def _profile(device: Device) -> dict[str, Any]:
    """Return a device as it was used, after inheritance: each number with its provenance."""
    figures = {key: asdict(figure) for key, figure in device.figures.items()}
    return {"title": device.title, "accelerator": device.accelerator, "figures": figures}


def _estimated(device: Device) -> list[str]:
    return sorted(name for name, figure in device.figures.items() if figure.basis == "estimated")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
