"""Everything that a config may name, in one place: what `fedknow-ray list` prints and configs are checked against."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fedknow_ray.config.catalogue import Catalogue
from fedknow_ray.config.policy import POLICY_NAMES
from fedknow_ray.methods.catalogue import METHODS
from fedknow_ray.models.catalogue import MODELS
from fedknow_ray.scenario.datasets import DATASETS
from fedknow_ray.simulation.device_library import DeviceLibrary

DEVICES = DeviceLibrary()
CATALOGUE = Catalogue(
    methods=METHODS, models=MODELS, datasets=DATASETS, devices=DEVICES, with_own_devices=DEVICES.with_own
)

#: What `fedknow-ray list KIND` knows.
KINDS: dict[str, Callable[[], list[str]]] = {
    "methods": METHODS.names,
    "models": MODELS.names,
    "datasets": DATASETS.names,
    "devices": DEVICES.names,
    "policies": lambda: sorted(POLICY_NAMES),
}


def devices_with(own: Path | None) -> DeviceLibrary:
    """Return the shipped devices, and beside them those that the config's `devices_path` gives.

    Raises:
        ConfigError: if one of its files has a fault.
    """
    return DEVICES if own is None else DEVICES.with_own(own)
