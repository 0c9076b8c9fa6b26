"""Everything that a config may name, in one place: what `fedknow-ray list` prints and configs are checked against."""

from __future__ import annotations

from collections.abc import Callable

from fedknow_ray.config.catalogue import Catalogue
from fedknow_ray.methods.catalogue import METHODS
from fedknow_ray.models.catalogue import MODELS
from fedknow_ray.scenario.datasets import DATASETS
from fedknow_ray.simulation.device import DeviceLibrary

DEVICES = DeviceLibrary()
POLICIES = ("synchronous",)
CATALOGUE = Catalogue(methods=METHODS, models=MODELS, datasets=DATASETS, devices=DEVICES)

#: What `fedknow-ray list KIND` knows.
KINDS: dict[str, Callable[[], list[str]]] = {
    "methods": METHODS.names,
    "models": MODELS.names,
    "datasets": DATASETS.names,
    "devices": DEVICES.names,
    "policies": lambda: sorted(POLICIES),
}
