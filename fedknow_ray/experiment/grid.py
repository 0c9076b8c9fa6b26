"""The grid of a comparison: methods times varied settings, each with the overrides that make it out of one config.

    methods ["fedavg", "fedknow"], vary "method.margin=0,0.5", "training.local_epochs=1,2"
        fedavg, local_epochs=1      fedavg, local_epochs=2      fedknow, margin=0, local_epochs=1      ...
    methods ["fedknow"], each "method.margin=0.5", "method.temperature=1,4"
        fedknow     fedknow, margin=0.5     fedknow, temperature=1      fedknow, temperature=4

A `method.*` key goes to the methods that have it and to no other; every other key goes to all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from fedknow_ray.config.model import RunConfig
from fedknow_ray.config.yaml import parse_yaml
from fedknow_ray.errors import ConfigError, Fault, did_you_mean
from fedknow_ray.experiment.catalogue import CATALOGUE
from fedknow_ray.experiment.run import read_config
from fedknow_ray.results.comparison import Case

_LONGEST_FOLDER = 80
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=,+-]*")
#: Keys that have an option of their own.
_OPTION_OF = {
    "seed": "--seeds, and --set seed=N for the first of them",
    "method": "--methods",
    "method.name": "--methods",
}


class RunId(NamedTuple):
    """One run of a comparison."""

    label: str
    seed: int

    def __str__(self) -> str:
        return f"{self.label}, seed {self.seed}"


@dataclass(frozen=True)
class Grid:
    """What is compared, as the options say it: every key is known to a method, or belongs to all."""

    config: Path
    methods: tuple[str, ...]
    varied: Mapping[str, tuple[Any, ...]]
    sets: tuple[str, ...]
    """Overrides of every case, but the seed."""
    seed_sets: tuple[str, ...] = ()
    alone: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Values that are set one at a time, with every combination of *varied*."""

    def cases(self) -> list[Case]:
        """Return the cases without runs, method by method, the last varied key changing fastest; each combination is
        followed by what is set alone on top of it."""
        keys = (*self.varied, *self.alone)
        return [
            self.case(_label(method, settings, keys), method, settings)
            for method in self.methods
            for settings in self._settings(method)
        ]

    def case(self, label: str, method: str, settings: Mapping[str, Any], runs: Mapping[int, str] | None = None) -> Case:
        """Return the case of a method and its settings, by key, under the sets of this grid."""
        varied = [f"{key}={flow_text(value)}" for key, value in settings.items()]
        sets = [override for override in self.sets if _knows(method, _key(override))]
        overrides = (f"method.name={method}", *sets, *varied)
        return Case(label=label, method=method, settings=dict(settings), overrides=overrides, runs=dict(runs or {}))

    def _settings(self, method: str) -> Iterator[dict[str, Any]]:
        keys = [key for key in self.varied if _knows(method, key)]
        for values in product(*(self.varied[key] for key in keys)):
            combination = dict(zip(keys, values, strict=True))
            yield combination
            for key in self.alone:
                if _knows(method, key):
                    yield from ({**combination, key: value} for value in self.alone[key])


def read_grid(
    config: Path,
    methods: Sequence[str],
    vary: Sequence[str] = (),
    sets: Sequence[str] = (),
    each: Sequence[str] = (),
) -> Grid:
    """Return the grid that the options mean; *vary* and *each* are "KEY=V1,V2,...", *sets* "KEY=VALUE".

    Raises:
        ConfigError: with every fault of the options.
    """
    faults = list(_method_faults(methods))
    known = [name for name in dict.fromkeys(methods) if name in CATALOGUE.methods]
    varied: dict[str, tuple[Any, ...]] = {}
    alone: dict[str, tuple[Any, ...]] = {}
    for name, options, values_of in (("--vary", vary, varied), ("--each", each, alone)):
        for option in options:
            key, values, found = _read_values(name, option, {**varied, **alone})
            faults += found or _key_faults(f"{name} {option}", key, known)
            values_of[key] = values
    of_seed = [option for option in sets if _key(option) == "seed"]
    others = [option for option in sets if option not in of_seed]
    for option in others:
        faults += _key_faults(f"--set {option}", _key(option), known)
    if faults:
        raise ConfigError(faults)
    return Grid(config, tuple(methods), varied, tuple(others), tuple(of_seed), alone)


def read_configs(config: Path, cases: Sequence[Case], alone: Collection[str] = ()) -> dict[RunId, RunConfig]:
    """Return the resolved config of each run, seed by seed and within a seed in the order of the cases.

    *alone* are the keys that were given with --each.

    Raises:
        ConfigError: with the faults of all cases; one that not all cases have names those that have it.
    """
    seeds = sorted({seed for case in cases for seed in case.runs})
    runs = [(case, seed) for seed in seeds for case in cases if seed in case.runs]
    read = [(case, _try_config(config, case, [f"seed={seed}"])) for case, seed in runs]
    found = _without_faults(read, len(cases), alone)
    return {RunId(case.label, seed): each for (case, seed), each in zip(runs, found, strict=True)}


def first_seed(grid: Grid) -> int:
    """Return the seed of the config, or of `--set seed`.

    Raises:
        ConfigError: with the faults of all cases, as `read_configs`.
    """
    cases = grid.cases()
    read = [(case, _try_config(grid.config, case, grid.seed_sets)) for case in cases]
    return _without_faults(read, len(cases), grid.alone)[0].seed


def run_folder(label: str, seed: int) -> str:
    """Return where a run lies in its comparison: a function of label and seed alone, other for other labels.

    >>> run_folder("fedknow, margin=0.5", 3)
    'runs/fedknow,margin=0.5/seed-3'
    """
    plain = label.replace(", ", ",")
    if not _SAFE.fullmatch(plain) or len(plain) > _LONGEST_FOLDER:
        cleaned = re.sub(r"[^A-Za-z0-9.,]+", "-", plain)[: _LONGEST_FOLDER - 9].strip("-.,")
        plain = f"{cleaned}-{sha256(label.encode()).hexdigest()[:8]}"
    return f"runs/{plain}/seed-{seed}"


def flow_text(value: Any) -> str:
    """Return a plain value as YAML on one line, with quotes only where they are needed.

    >>> flow_text({"name": "sgd", "lr": 0.05})
    '{name: sgd, lr: 0.05}'
    """
    if isinstance(value, dict):
        return f"{{{', '.join(f'{flow_text(key)}: {flow_text(item)}' for key, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(flow_text, value))}]"
    if isinstance(value, str) and parse_yaml(f"[{value}]").value == [value]:
        return value
    return json.dumps(value, ensure_ascii=False)


def _read_values(name: str, option: str, earlier: Mapping[str, Any]) -> tuple[str, tuple[Any, ...], list[Fault]]:
    """Return key and values of "KEY=V1,V2,...", given with the option *name*, and what is wrong with it."""
    where = f"{name} {option}"
    key, equals, text = _key(option), "=" in option, option.partition("=")[2]
    if not (key and equals):
        return key, (), [Fault(where, key, "must be KEY=V1,V2,..., for example method.margin=0,0.5")]
    parsed = parse_yaml(f"[{text}]")
    values = parsed.value if isinstance(parsed.value, list) else []
    if parsed.problems:
        return key, (), [Fault(where, key, problem.message) for problem in parsed.problems]
    texts = list(map(flow_text, values))
    twice = sorted({text for text in texts if texts.count(text) > 1})
    if key in earlier:
        return key, (), [Fault(where, key, "is varied twice; put all of its values into one option")]
    if not values:
        return key, (), [Fault(where, key, "has no value to take; write KEY=V1,V2,...")]
    if twice:
        return key, (), [Fault(where, key, f"takes the value {twice[0]} twice; leave one out")]
    return key, tuple(values), []


def _method_faults(methods: Sequence[str]) -> Iterator[Fault]:
    if not methods:
        yield Fault("--methods", "", "names no method; write for example --methods fedavg,fedknow")
    for name in dict.fromkeys(methods):
        if name not in CATALOGUE.methods:
            hint = did_you_mean(name, CATALOGUE.methods.names())
            yield Fault(f"--methods {','.join(methods)}", "", f"unknown method {name!r}{hint}")
        if list(methods).count(name) > 1:
            yield Fault(f"--methods {','.join(methods)}", "", f"{name} is named twice; leave one out")


def _key_faults(where: str, key: str, methods: Sequence[str]) -> list[Fault]:
    if key in _OPTION_OF:
        return [Fault(where, key, f"belongs to another option: {_OPTION_OF[key]}")]
    if not methods or any(_knows(method, key) for method in methods):
        return []
    fields = {f"method.{field}" for method in methods for field in _hyperparameters(method)}
    return [Fault(where, key, f"no method of {', '.join(methods)} has this key{did_you_mean(key, fields)}")]


def _knows(method: str, key: str) -> bool:
    section, _, rest = key.partition(".")
    return section != "method" or rest.partition(".")[0] in _hyperparameters(method)


def _hyperparameters(method: str) -> Sequence[str]:
    return list(CATALOGUE.methods.get(method).hyperparameters.model_fields)


def _key(option: str) -> str:
    """Return the key of "KEY=VALUE", its parts without spaces around them."""
    return ".".join(part.strip() for part in option.partition("=")[0].split("."))


def _label(method: str, settings: Mapping[str, Any], varied: Collection[str]) -> str:
    return ", ".join([method, *(f"{_short(key, varied)}={flow_text(value)}" for key, value in settings.items())])


def _short(key: str, varied: Collection[str]) -> str:
    """Return the shortest end of a key that no other varied key has; `name` alone says too little."""
    parts = key.split(".")
    for length in range(1, len(parts)):
        end = ".".join(parts[-length:])
        if end != "name" and not any(other.endswith(f".{end}") for other in varied if other != key):
            return end
    return key


def _try_config(config: Path, case: Case, more: Sequence[str]) -> RunConfig | ConfigError:
    try:
        return read_config(config, [*case.overrides, *more])
    except ConfigError as error:
        return error


def _without_faults(
    read: Sequence[tuple[Case, RunConfig | ConfigError]], cases: int, alone: Collection[str]
) -> list[RunConfig]:
    """Return the configs, or raise the faults of all of them at once, each with the cases that have it."""
    labels: dict[Fault, dict[str, None]] = {}
    for case, error in read:
        for fault in error.faults if isinstance(error, ConfigError) else ():
            labels.setdefault(_as_said(fault, case, alone), {})[case.label] = None
    if labels:
        raise ConfigError([_of_cases(fault, list(of), cases) for fault, of in labels.items()])
    return [config for _, config in read if isinstance(config, RunConfig)]


def _as_said(fault: Fault, case: Case, alone: Collection[str]) -> Fault:
    """Name the option that was given: what a case varies goes to the config as an override."""
    option = fault.where.removeprefix("--set ")
    if option == fault.where or _key(option) not in case.settings:
        return fault
    return replace(fault, where=f"{'--each' if _key(option) in alone else '--vary'} {option}")


def _of_cases(fault: Fault, labels: Sequence[str], among: int) -> Fault:
    if len(labels) == among:
        return fault
    shown = "; ".join(labels[:3]) + (f"; and {len(labels) - 3} more" if len(labels) > 3 else "")
    return replace(fault, message=f"{fault.message} (in the case {shown})")
