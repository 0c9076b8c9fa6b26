"""From a YAML file and overrides to a resolved config, or to all of its faults at once.

read the file -> set the overrides -> check every section by itself -> check what keys mean together. A step works on
what the ones before it found in order, so that one mistake does not hide another.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fedknow_ray.config.catalogue import Catalogue, Names
from fedknow_ray.config.checks import find_conflicts, unknown_devices
from fedknow_ray.config.document import Document, Faults, Place, open_document
from fedknow_ray.config.explain import explain
from fedknow_ray.config.model import DEFAULT_NAMES, CommonConfig, MethodConfig, RunConfig
from fedknow_ray.config.overrides import apply_overrides, read_overrides
from fedknow_ray.config.yaml import KeyPath, format_yaml, show
from fedknow_ray.errors import ConfigError, did_you_mean

LONGEST_NAME_BYTES = 100

ModelT = TypeVar("ModelT", bound=BaseModel)


def load_config(
    path: Path | str, overrides: Sequence[str] | Mapping[str, Any] = (), *, catalogue: Catalogue
) -> RunConfig:
    """Return the resolved config of a file.

    *overrides* are "KEY=VALUE" options, or a mapping such as {"method.name": "fedavg"}.

    Raises:
        ConfigError: with every fault of the file and of the overrides, each with its place and its key.
    """
    faults = Faults()
    requests = read_overrides(overrides, faults)
    document = open_document(Path(path), faults)
    if document is None:
        raise ConfigError(faults.in_order())
    apply_overrides(document, requests, faults)
    _fill_names(document)
    _refuse_infinities(document, faults)
    common = _check_common(document, faults)
    method = _check_method(document, catalogue, faults)
    _check_names_and_conflicts(document, common, catalogue, faults)
    if method is not None:
        _check_method_goes_with(document, method, common, catalogue, faults)
    if faults.in_order() or method is None:
        raise ConfigError(faults.in_order())
    return RunConfig(**{name: getattr(common, name) for name in CommonConfig.model_fields}, method=method)


def dump_yaml(config: RunConfig) -> str:
    """Return the config as YAML with every key present; loading the text gives an equal config."""
    return format_yaml(config.to_dict())


def resolve_run_name(path: Path | str) -> str:
    """Return what a run of this config file is called: the file's name without its ending.

    It becomes part of a folder's name and is written into files: it is cut to 100 bytes, and what cannot be printed is
    replaced by "-".

    >>> resolve_run_name("configs/quickstart.yaml")
    'quickstart'
    """
    shown = "".join(letter if letter.isprintable() else "-" for letter in Path(path).stem)
    return shown.encode()[:LONGEST_NAME_BYTES].decode(errors="ignore")


def _fill_names(document: Document) -> None:
    """Write the default name into each named entry that has none, so that its keys can be judged."""
    document.tree.setdefault("method", {})
    for entry, name in DEFAULT_NAMES.items():
        section = document.get(entry)
        if isinstance(section, dict):
            section.setdefault("name", name)


def _refuse_infinities(document: Document, faults: Faults) -> None:
    for path, value in _leaves(document.tree, ()):
        if isinstance(value, float) and not math.isfinite(value):
            faults.add(document.place(path), path, f"must be a finite number, got {value}")


def _leaves(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(value, dict | list):
        for part, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(item, (*path, part))
    else:
        yield path, value


def _check_common(document: Document, faults: Faults) -> CommonConfig:
    """Return every section but the method, with defaults in place of what is faulty."""
    tree = deepcopy({key: value for key, value in document.tree.items() if key != "method"})
    while True:
        try:
            return _validate(CommonConfig, tree)
        except ValidationError as error:
            found = list(explain(error, CommonConfig, tree, also=("method",)))
        for path, message in found:
            faults.add(document.place(path), path, message)
        pruned = [_prune(tree, path) for path, _ in found]
        if not any(pruned):
            return CommonConfig()


def _check_method(document: Document, catalogue: Catalogue, faults: Faults) -> MethodConfig | None:
    """Return the method with its hyper-parameters, or None where something is wrong with it."""
    section = document.get(("method",))
    if not isinstance(section, dict):
        hint = f"; write method: {{name: {section}}}" if isinstance(section, str) else ""
        faults.add(document.place(("method",)), ("method",), f"must be a mapping of keys, got {show(section)}{hint}")
        return None
    name, keys = section["name"], {key: value for key, value in section.items() if key != "name"}
    if not isinstance(name, str) or name not in catalogue.methods:
        hint = did_you_mean(str(name), catalogue.methods.names())
        faults.add(document.place(("method", "name")), ("method", "name"), f"unknown method {show(name)}{hint}")
        return None
    hyperparameters = catalogue.methods.get(name).hyperparameters
    try:
        return MethodConfig(name=name, hyper=_validate(hyperparameters, keys))
    except ValidationError as error:
        for path, message in explain(error, hyperparameters, keys, also=("name",)):
            faults.add(document.place(("method", *path)), ("method", *path), message)
        return None


def _check_names_and_conflicts(document: Document, common: CommonConfig, catalogue: Catalogue, faults: Faults) -> None:
    fleet = document.get(("fleet",), [entry.model_dump() for entry in common.fleet])
    devices = _devices(document, common, catalogue, faults)
    host = document.get(("host_device",), common.host_device)
    for path, message in unknown_devices(fleet, host, devices) if devices is not None else ():
        faults.add(document.place(path), path, message)
    for conflict in list(find_conflicts(common, catalogue, faults.touches)):
        faults.add(document.place(conflict.key, *conflict.reads), conflict.key, conflict.message)


def _check_method_goes_with(
    document: Document, method: MethodConfig, common: CommonConfig, catalogue: Catalogue, faults: Faults
) -> None:
    """Look for what the method cannot go with, unless what it looks at is faulty by itself."""
    if any(faults.touches((section,)) for section in ("model", "training", "compression")):
        return
    for key, message in catalogue.methods.get(method.name).conflicts(method.hyper, common):
        faults.add(document.place(key, ("method", "name"), key[:1]), key, message)


def _devices(document: Document, common: CommonConfig, catalogue: Catalogue, faults: Faults) -> Names[object] | None:
    """Return the devices that the fleet may name, or None where a user's own cannot be read."""
    key: KeyPath = ("devices_path",)
    if faults.touches(key):
        return None
    if common.devices_path is None:
        return catalogue.devices
    try:
        return catalogue.with_own_devices(common.devices_path)
    except ConfigError as error:
        said = document.place(key)
        for fault in error.faults:
            if not fault.key and fault.where == str(common.devices_path):
                faults.add(said, key, f"{fault.where}: {fault.message}")
                continue
            # sorted as the config names it, shown as the place in the device file
            path: KeyPath = tuple(fault.key.split(".")) if fault.key else key
            faults.add(Place(said.override, said.line, fault.where), path, fault.message)
        return None


def _validate(model: type[ModelT], tree: dict[str, Any]) -> ModelT:
    # JSON's strict rules are a config's: true is no number and "3" is none, yet a list fills a tuple.
    return model.model_validate_json(json.dumps(tree), strict=True)


def _prune(tree: dict[str, Any], path: KeyPath) -> bool:
    """Take a faulty key out, so that its neighbours can be judged; returns whether there was something to take.

    A list goes as a whole, and so does a named entry whose name is faulty: the rest of it has lost its meaning.
    """
    if path[:-1] in DEFAULT_NAMES and path[-1] == "name":
        path = path[:-1]
    container: Any = tree
    for part in path:
        inner = container.get(part)
        if part in container and (part == path[-1] or not isinstance(inner, dict)):
            del container[part]
            return True
        if not isinstance(inner, dict):
            return False
        container = inner
    return False
