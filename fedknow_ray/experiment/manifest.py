"""The manifest: what a run was made with, so that it can be made again and told apart. Written before round 0."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from operator import attrgetter
from typing import Any

from fedknow_ray.config.loading import dump_yaml
from fedknow_ray.config.model import RunConfig
from fedknow_ray.config.paths import trace_paths
from fedknow_ray.errors import RunDirectoryError
from fedknow_ray.results.run import Run
from fedknow_ray.results.schema import SCHEMA_VERSION
from fedknow_ray.scenario.datasets import Dataset, dataset_digest
from fedknow_ray.simulation.device import FIGURES, NETWORK_KINDS, Device, parse_device
from fedknow_ray.transport.payload import Buffer, payload_sha256

PACKAGES = ("fedknow-ray", "ray", "torch", "torchvision", "numpy", "pyarrow", "scipy", "scikit-learn", "pydantic")


def make_manifest(
    name: str,
    config: RunConfig,
    dataset: Dataset,
    start: Buffer,
    devices: Iterable[Device],
    backend: str,
    kept_bytes: int,
) -> dict[str, Any]:
    """Return the manifest of a run: versions, digests, host, seed, and the devices as they were, estimates named.

    *kept_bytes*: what the method keeps of past tasks while the last task is learnt, as planned, of one client.
    """
    devices = list(devices)
    return {
        "name": name,
        "schema_version": SCHEMA_VERSION,
        "seed": config.seed,
        "backend": backend,
        "kept_bytes": kept_bytes,
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{package: _version(package) for package in PACKAGES}},
        "digests": {
            **_config_digests(config, devices),
            **_trace_digests(config),
            "dataset_sha256": dataset_digest(dataset),
            "initial_parameters_sha256": payload_sha256(start),
        },
        "host": {
            "platform": platform.platform(),
            "machine": platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        },
        **_device_entries(devices),
    }


def resumed_note(manifest: Mapping[str, Any], checkpoint: str) -> dict[str, Any]:
    """Return what the manifest of a run says of its going on here, by the manifest that it would have from here."""
    return {"checkpoint": checkpoint, **{key: manifest[key] for key in ("started_at", "backend", "host", "versions")}}


def replayed_manifest(
    run: Run, config: RunConfig, devices: Iterable[Device], changes: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the manifest of a recorded run that was replayed: its own, with the config and the devices of the replay.

    *changes* are the keys that differ, each with what it was and what it is.
    """
    devices = list(devices)
    return {
        **run.manifest,
        "digests": {**run.manifest["digests"], **_config_digests(config, devices)},
        **_device_entries(devices),
        "replayed_from": {"run_dir": str(run.path.resolve()), "changes": dict(changes)},
    }


def recorded_device(run: Run, name: str) -> Device:
    """Return a device as it was when a run was made.

    Raises:
        RunDirectoryError: if the run's manifest does not have it.
    """
    profile = run.manifest.get("devices", {}).get(name)
    if profile is None:
        raise RunDirectoryError(f"{run.path}: its manifest does not say what the device {name!r} was; run it again")
    figures = {
        key: {part: value for part, value in figure.items() if value is not None}
        for key, figure in profile["figures"].items()
    }
    content = {
        "name": name,
        "title": profile["title"],
        "accelerator": profile["accelerator"],
        **{key: figures.get(key) for key in FIGURES},
        "utilisation": {kind: figures.get(f"utilisation.{kind}") for kind in NETWORK_KINDS},
    }
    return parse_device(content, str(run.path / "manifest.json"))


def _config_digests(config: RunConfig, devices: Iterable[Device]) -> dict[str, str]:
    profiles = _device_entries(devices)["devices"]
    return {
        "config_sha256": sha256(dump_yaml(config).encode()).hexdigest(),
        "devices_sha256": sha256(json.dumps(profiles, sort_keys=True).encode()).hexdigest(),
    }


def _trace_digests(config: RunConfig) -> dict[str, str]:
    """Return one digest of all trace files, each under its key; nothing where the run reads none."""
    traces = {key: sha256(path.read_bytes()).hexdigest() for key, path in sorted(trace_paths(config).items())}
    return {"traces_sha256": sha256(json.dumps(traces).encode()).hexdigest()} if traces else {}


def _device_entries(devices: Iterable[Device]) -> dict[str, Any]:
    used = sorted(set(devices), key=attrgetter("name"))
    return {
        "estimated_device_fields": {device.name: _estimated(device) for device in used},
        "devices": {device.name: _profile(device) for device in used},
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
