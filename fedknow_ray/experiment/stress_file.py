"""What a stress is: one YAML file that says how a run of any config becomes harder.

    title, does      what a reader sees
    differs_in       the column of the card in which a run under it must differ from the calm run
    set, add         keys of the config, and what they are set to; lists of the config, and what comes behind them
    clients          what becomes of a share of the clients: slower boards, less memory, links that change

A time is that of the run's config where it is written as "0.3 run": that share of the calm run's virtual time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import pairwise
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, Strict, ValidationError, model_validator

from fedknow_ray.config.document import Faults, Place
from fedknow_ray.config.explain import explain
from fedknow_ray.config.fields import Fraction, Frozen, Name, Positive
from fedknow_ray.config.yaml import parse_yaml, show
from fedknow_ray.errors import ConfigError, UnknownNameError

_ENDING = ".yaml"
_OF_RUN = re.compile(r"(\d+(?:\.\d+)?) run")

Column = Literal["time_ratio", "energy_ratio", "wasted_bytes", "lost_visits"]
"""Columns of the card that are known without training."""
COLUMNS: tuple[Column, ...] = get_args(Column)


def run_share(value: object) -> float | None:
    """Return the share of the calm run's time that a text stands for; None for all other values.

    >>> run_share("0.3 run")
    0.3
    """
    match = _OF_RUN.fullmatch(value) if isinstance(value, str) else None
    return None if match is None else float(match[1])


def _share(value: object) -> float:
    share = run_share(value)
    if share is None:
        raise ValueError(f'must be a share of the calm run\'s time such as "0.3 run", got {show(value)}')
    return share


OfRun = Annotated[float, BeforeValidator(_share)]
"""A share of the calm run's virtual time."""


class LinkStep(Frozen):
    """From *at* on a client's link has its own rates times *factor*; at 0 nothing gets through."""

    at: OfRun
    factor: Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)]


class ClientsChange(Frozen):
    """What becomes of a share of the clients, spread over the entries of the fleet as they are large."""

    share: Fraction
    """Of the clients, to the nearest whole one, and never none."""
    speed: Positive | None = None
    """Factor of the board's training rate and memory bandwidth; the overhead of a step is divided by it."""
    memory_of_peak: Fraction | None = None
    """The board's memory, as a share of what the largest visit of the calm run takes; never more than it has."""
    link: Annotated[tuple[LinkStep, ...], Field(min_length=1)] | None = None
    """Steps of both directions of the link, from 0 on and in order of time."""
    repeat_every: OfRun | None = None
    """The steps begin anew after this time, until five times the calm run's; from then on the link is as in calm."""

    @model_validator(mode="after")
    def _go_together(self) -> ClientsChange:
        if all(part is None for part in (self.speed, self.memory_of_peak, self.link)):
            raise ValueError("changes nothing; give speed, memory_of_peak or link")
        fault = next(_link_faults(self.link or (), self.repeat_every), None)
        if fault is not None:
            raise ValueError(fault)
        return self


class Stress(Frozen):
    """One stress; *name* is its file's."""

    name: Name
    title: Name
    does: Name
    differs_in: Column
    set: Mapping[Name, Any] = {}
    """Key of the config, with dots -> its value."""
    add: Mapping[Name, Sequence[Any]] = {}
    """Key of a list of the config -> what comes behind its entries."""
    clients: ClientsChange | None = None

    @model_validator(mode="after")
    def _does_something(self) -> Stress:
        if not self.set and not self.add and self.clients is None:
            raise ValueError("does nothing; give set, add or clients")
        return self


def shipped_folder() -> Traversable:
    """Return the folder of the stresses that come with the package; configs/stress of the repository is the same."""
    return files(__package__).joinpath("stresses")


def read_stresses(only: Sequence[str] = (), folder: Traversable | None = None) -> dict[str, Stress]:
    """Return the stresses of a folder by name, sorted; *only* those of these names, in their order.

    Raises:
        UnknownNameError: if one of the names is no stress.
        ConfigError: with every fault of the files.
    """
    found = sorted((folder or shipped_folder()).iterdir(), key=lambda file: file.name)
    by_name = {file.name.removesuffix(_ENDING): file for file in found if file.name.endswith(_ENDING)}
    for name in only:
        if name not in by_name:
            raise UnknownNameError("stress", name, by_name)
    faults = Faults()
    read = {name: _read(name, by_name[name], faults) for name in (dict.fromkeys(only) if only else by_name)}
    if faults.in_order():
        raise ConfigError(faults.in_order())
    return {name: stress for name, stress in read.items() if stress is not None}


def _read(name: str, file: Traversable, faults: Faults) -> Stress | None:
    """Return the stress of a file, or None where something is wrong with it."""
    parsed = parse_yaml(file.read_text(encoding="utf-8"))
    for problem in parsed.problems:
        faults.add(Place(0, problem.line, f"{file}:{problem.line}"), problem.path, problem.message)
    if parsed.problems:
        return None
    if not isinstance(parsed.value, dict):
        faults.add(Place(0, 1, f"{file}:1"), (), f"must be a mapping of keys, got {show(parsed.value)}")
        return None
    tree = {**parsed.value, "name": name}
    try:
        return Stress.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        for path, message in explain(error, Stress, tree):
            line = next((parsed.lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in parsed.lines), 1)
            faults.add(Place(0, line, f"{file}:{line}"), path, message)
        return None


def _link_faults(steps: Sequence[LinkStep], repeat_every: float | None) -> Iterator[str]:
    times = [step.at for step in steps]
    if repeat_every is not None and not steps:
        yield "repeat_every goes with link; give the steps that are repeated"
    if times and times[0] != 0:
        yield f"the first step of link is at {times[0]:g} run and must be at 0 run"
    if any(later <= earlier for earlier, later in pairwise(times)):
        yield f"the steps of link must come in order of time, each once, got {', '.join(f'{t:g}' for t in times)} run"
    if repeat_every is not None and times and times[-1] >= repeat_every:
        yield f"the last step of link, at {times[-1]:g} run, must come before repeat_every, {repeat_every:g} run"
    if repeat_every is None and steps and steps[-1].factor == 0:
        yield "the last factor of link is 0, so a transfer would never end; add a step with a factor above 0"
