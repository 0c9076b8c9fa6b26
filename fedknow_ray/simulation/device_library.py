"""The devices that a run may name: those that come with the package, and a user's own beside them.

A device is one YAML file with its name. A file with `inherits: NAME` gives only what differs from that device, own or
shipped, which may inherit in its turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from yaml import YAMLError

from fedknow_ray.errors import ConfigError, Fault, UnknownNameError, did_you_mean
from fedknow_ray.plain_yaml import plain_yaml
from fedknow_ray.simulation.device import Device, DeviceFileError, parse_device

_ENDING = ".yaml"


class DeviceLibrary:
    """The devices of a folder of YAML files, one a device; a file is read when its device is first asked for.

    Without a folder: the profiles that come with the package.
    """

    def __init__(self, folder: Traversable | None = None) -> None:
        self._files: dict[str, Traversable] = _files_in(
            files(__package__).joinpath("devices") if folder is None else folder
        )
        self._devices: dict[str, Device] = {}

    def names(self) -> list[str]:
        """Return all names, sorted; reads no file."""
        return sorted(self._files)

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def get(self, name: str) -> Device:
        """Return one device.

        Raises:
            UnknownNameError: if there is no such device; the message suggests the nearest.
            DeviceFileError: if its file, or one that it inherits from, has a fault.
        """
        if name not in self:
            raise UnknownNameError("device", name, self.names())
        return self._resolve(name, ())

    def with_own(self, path: Path) -> DeviceLibrary:
        """Return a library that has, beside these devices, those of *path*: a folder of YAML files, or one file.

        Raises:
            ConfigError: with a fault of each file: one that cannot be read, has the name of a device here, or says
                something wrong.
        """
        own = _own_files(path)
        faults = [
            Fault(str(file), "name", f"there is a device {name!r} already; call the file and its device something else")
            for name, file in own.items()
            if name in self
        ]
        library = copy(self)
        library._files, library._devices = {**own, **self._files}, dict(self._devices)
        for name in sorted(own.keys() - self._files.keys()):
            try:
                library.get(name)
            except DeviceFileError as error:
                faults.append(error.fault)
        if faults:
            raise ConfigError(list(dict.fromkeys(faults)))
        return library

    def _resolve(self, name: str, heirs: tuple[str, ...]) -> Device:
        """Return a known device; *heirs* are those that are being resolved because they inherit from it."""
        if name not in self._devices:
            file = self._files[name]
            content = _read(file)
            parent = None
            if isinstance(content, dict) and "inherits" in content:
                parent = self._resolve(self._parent(content["inherits"], file, (*heirs, name)), (*heirs, name))
            device = parse_device(content, str(file), parent)
            if device.name != name:
                raise DeviceFileError(str(file), "name", f"must be the file's name, got {device.name!r}")
            self._devices[name] = device
        return self._devices[name]

    def _parent(self, name: object, file: Traversable, line: tuple[str, ...]) -> str:
        """Return the name of the device that a file inherits from; *line* are its heirs, itself last."""
        if not isinstance(name, str) or name not in self:
            hint = did_you_mean(str(name), self.names())
            raise DeviceFileError(str(file), "inherits", f"unknown device {name!r}{hint}")
        if name in line:
            circle = " -> ".join((*line[line.index(name) :], name))
            raise DeviceFileError(str(file), "inherits", f"goes round in a circle ({circle}); take one of them out")
        return name


def _files_in(folder: Traversable) -> dict[str, Traversable]:
    return {file.name.removesuffix(_ENDING): file for file in folder.iterdir() if file.name.endswith(_ENDING)}


def _own_files(path: Path) -> Mapping[str, Traversable]:
    """Return a user's device files by the names of their devices.

    Raises:
        ConfigError: if there are none.
    """
    if path.is_file() and path.name.endswith(_ENDING):
        return {path.name.removesuffix(_ENDING): path}
    if path.is_file():
        raise _no_files(path, f"is no device file; its name must end in {_ENDING}")
    if not path.is_dir():
        raise _no_files(path, "there is no such file or folder; give a folder of device files, or one of them")
    try:
        own = _files_in(path)
    except OSError as error:
        raise _no_files(path, f"cannot be read: {error.strerror or error}") from error
    if not own:
        raise _no_files(path, f"there is no device file in this folder; the names must end in {_ENDING}")
    return own


def _no_files(path: Path, message: str) -> ConfigError:
    return ConfigError([Fault(str(path), "", message)])


def _read(file: Traversable) -> object:
    """Return the content of a YAML file as plain values.

    Raises:
        DeviceFileError: if it cannot be read.
    """
    if not file.is_file():
        raise DeviceFileError(str(file), "", "is no file that can be read")
    try:
        return plain_yaml(file.read_text(encoding="utf-8"))
    except YAMLError as error:
        raise DeviceFileError(str(file), "", f"is not YAML: {' '.join(str(error).split())}") from error
    except UnicodeDecodeError as error:
        raise DeviceFileError(str(file), "", f"is not UTF-8 text ({error.reason})") from error
    except OSError as error:
        raise DeviceFileError(str(file), "", f"cannot be read: {error.strerror or error}") from error
