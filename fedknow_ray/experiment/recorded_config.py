"""The config of a recorded run, read again with other values, and the devices that it means.

No method is imported: its keys are taken as they were recorded, since a replay cannot change them. Devices are what
they were in the run, whatever has become of their files, unless the change is of `devices_path` itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from fedknow_ray.config.catalogue import Catalogue
from fedknow_ray.config.loading import load_config
from fedknow_ray.config.model import CommonConfig, RunConfig
from fedknow_ray.config.yaml import KeyPath
from fedknow_ray.experiment.catalogue import DEVICES
from fedknow_ray.experiment.manifest import recorded_device
from fedknow_ray.methods.catalogue import METHODS
from fedknow_ray.models.catalogue import MODELS
from fedknow_ray.results.run import Run
from fedknow_ray.results.store import CONFIG_FILE
from fedknow_ray.scenario.datasets import DATASETS
from fedknow_ray.simulation.device import Device
from fedknow_ray.simulation.device_library import DeviceLibrary


class RecordedHyperparameters(BaseModel):
    """The keys of a method as they stand in a recorded config, unchecked."""

    model_config = ConfigDict(frozen=True, extra="allow")


@dataclass(frozen=True, slots=True)
class _RecordedMethod:
    hyperparameters: type[BaseModel] = RecordedHyperparameters

    def conflicts(self, hyper: BaseModel, config: CommonConfig) -> Iterator[tuple[KeyPath, str]]:
        """Yield nothing: what the run was made with went together."""
        yield from ()


class _MethodNames:
    """The names of the methods, each with any keys at all."""

    def names(self) -> list[str]:
        return METHODS.names()

    def __contains__(self, name: object) -> bool:
        return name in METHODS

    def get(self, name: str) -> _RecordedMethod:
        return _RecordedMethod()


class RunDevices:
    """The devices that a replay may name: *recorded* ones first, then those of the *library*."""

    def __init__(self, recorded: Mapping[str, Device], library: DeviceLibrary) -> None:
        self._recorded, self._library = recorded, library

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted({*self._recorded, *self._library.names()})

    def __contains__(self, name: object) -> bool:
        return name in self._recorded or name in self._library

    def get(self, name: str) -> Device:
        """Return one device.

        Raises:
            UnknownNameError: if there is no such device.
        """
        return self._recorded[name] if name in self._recorded else self._library.get(name)


class RecordedConfig:
    """Reads the config of a recorded run, with overrides or without."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._own: str | None = run.config.get("devices_path")
        self._recorded = {name: recorded_device(run, name) for name in run.manifest.get("devices", {})}

    def read(self, overrides: Sequence[str] | Mapping[str, Any] = ()) -> RunConfig:
        """Return the resolved config under the overrides.

        Raises:
            ConfigError: with all faults at once.
        """
        catalogue = Catalogue(
            methods=_MethodNames(),
            models=MODELS,
            datasets=DATASETS,
            devices=RunDevices(self._recorded, DEVICES),
            with_own_devices=self._with_own,
        )
        return load_config(self._run.path / CONFIG_FILE, overrides, catalogue=catalogue)

    def devices(self, config: RunConfig) -> tuple[Device, ...]:
        """Return the device of each client of a config that was read here."""
        names = (
            RunDevices(self._recorded, DEVICES) if config.devices_path is None else self._with_own(config.devices_path)
        )
        return tuple(names.get(name) for name in config.devices)

    def _with_own(self, path: Path) -> RunDevices:
        """Return the devices with those of a folder: of the run's own only what the run does not have."""
        if self._own is not None and path == Path(self._own):
            # the run may be looked at where its device files are not
            return RunDevices(self._recorded, DEVICES.with_own(path) if path.exists() else DEVICES)
        library = DEVICES.with_own(path)
        own = {*library.names()} - {*DEVICES.names()}
        return RunDevices({name: device for name, device in self._recorded.items() if name not in own}, library)
