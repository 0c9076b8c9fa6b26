"""From the calm run and a stress to the stressed run's config, and the device files and traces that it needs.

    calm config -> set, add -> fleet: the changed clients at the end of each entry -> config and files

Pure but for the traces of the config's own links, which are read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from fedknow_ray.config.model import FleetEntry, RunConfig
from fedknow_ray.config.network import LinkOverrides
from fedknow_ray.config.yaml import format_yaml
from fedknow_ray.experiment.apportionment import apportion
from fedknow_ray.experiment.stress_file import ClientsChange, LinkStep, Stress, run_share
from fedknow_ray.simulation.device import Device
from fedknow_ray.simulation.trace import HEADER, BandwidthTrace, read_trace

#: Repeated steps of a link end at so many times the calm run's time.
REPEATS_UNTIL = 5.0
_DEVICES = "devices"


@dataclass(frozen=True)
class Calm:
    """The calm run, as far as stresses scale with it.

    *time_s* its virtual seconds, *peak_memory_bytes* of its largest visit, *device* gives a device of its fleet,
    *own_devices* are the texts of the files behind the config's `devices_path`, by file name.
    """

    config: RunConfig
    time_s: float
    peak_memory_bytes: int
    device: Callable[[str], Device]
    own_devices: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stressed:
    """A stressed run: its config in the shape of a YAML file, and the text of each file that it reads, by path."""

    config: dict[str, Any]
    files: Mapping[Path, str]


def stressed_config(stress: Stress, calm: Calm, folder: Path) -> Stressed:
    """Return the config of the run under a stress.

    The files lie in a folder of *folder* that is named for what is in them, so that a config tells of other files.

    Raises:
        UserError: if a trace of the config cannot be read.
    """
    plain = calm.config.to_dict()
    for key, value in stress.set.items():
        _put(plain, key, _at_time(value, calm.time_s))
    for key, entries in stress.add.items():
        _put(plain, key, [*_get(plain, key), *(_at_time(entry, calm.time_s) for entry in entries)])
    if stress.clients is None:
        return Stressed(plain, {})
    fleet = _Fleet(stress.name, stress.clients, calm)
    entries = fleet.entries()
    digest = sha256("\0".join(f"{name}\0{text}" for name, text in sorted(fleet.files.items())).encode())
    place = folder / f"{stress.name}-{digest.hexdigest()[:12]}"
    plain["fleet"] = [
        {key: str(place / value) if key.endswith("_trace") and value in fleet.files else value for key, value in e}
        for e in (entry.items() for entry in entries)
    ]
    if any(name.startswith(f"{_DEVICES}/") for name in fleet.files):
        plain["devices_path"] = str(place / _DEVICES)
    return Stressed(plain, {place / name: text for name, text in fleet.files.items()})


class _Fleet:
    """Makes the entries of the stressed fleet; `files` are what they need, by path in the stress's folder."""

    def __init__(self, name: str, change: ClientsChange, calm: Calm) -> None:
        self._name, self._change, self._calm = name, change, calm
        self.files: dict[str, str] = {}

    def entries(self) -> list[dict[str, Any]]:
        """Return the entries as plain values: of each what stays, and behind it what is changed, ids as they were."""
        fleet, clients = self._calm.config.fleet, self._calm.config.scenario.clients
        wanted = max(1, int(self._change.share * clients + 0.5))
        entries = []
        for entry, changed in zip(fleet, apportion([e.count for e in fleet], wanted), strict=True):
            if changed < entry.count:
                entries.append({**_plain(entry), "count": entry.count - changed})
            if changed:
                entries.append({**self._changed(entry), "count": changed})
        return entries

    def _changed(self, entry: FleetEntry) -> dict[str, Any]:
        change, plain = self._change, _plain(entry)
        if change.speed is not None or change.memory_of_peak is not None:
            plain["device"] = self._worse(self._calm.device(entry.device))
        if change.link is not None:
            for direction in ("uplink", "downlink"):
                plain.pop(f"{direction}_bytes_per_s", None)
                plain[f"{direction}_trace"] = self._trace(entry, direction, change.link)
        return plain

    def _worse(self, device: Device) -> str:
        """Write the file of a worse device, beside the user's own, and return its name."""
        name = f"{device.name}-{self._name}"
        self.files |= {f"{_DEVICES}/{file}": text for file, text in self._calm.own_devices.items()}
        content = {
            "name": name,
            "inherits": device.name,
            "title": f"{device.title} under {self._name}",
            **self._figures(device),
        }
        self.files[f"{_DEVICES}/{name}.yaml"] = format_yaml(content)
        return name

    def _figures(self, device: Device) -> dict[str, Any]:
        speed, share, figures = self._change.speed, self._change.memory_of_peak, {}
        if speed is not None:
            factors = {
                "sustained_flops_per_s": speed,
                "memory_bandwidth_bytes_per_s": speed,
                "step_overhead_s": 1 / speed,
            }
            for key, factor in factors.items():
                if key in device.figures:
                    value = device.figures[key].value
                    figures[key] = self._figure(value * factor, f"{value:g} x {factor:g}")
        if share is not None:
            squeezed, peak = int(share * self._calm.peak_memory_bytes), self._calm.peak_memory_bytes
            if device.memory_bytes is None or squeezed < device.memory_bytes:
                figures["memory_bytes"] = self._figure(squeezed, f"{share:g} x {peak}, the calm run's largest visit")
        return figures

    def _figure(self, value: float, formula: str) -> dict[str, Any]:
        return {"value": value, "basis": "estimated", "source": f"the stress {self._name}", "formula": formula}

    def _trace(self, entry: FleetEntry, direction: str, steps: Sequence[LinkStep]) -> str:
        """Write the trace of one direction of a changed link, and return its path in the stress's folder."""
        link = self._calm.config.network.link_with(
            LinkOverrides(**{key: getattr(entry, key) for key in LinkOverrides.model_fields})
        )
        path = getattr(link, f"{direction}_trace")
        own = BandwidthTrace((0.0,), (getattr(link, f"{direction}_bytes_per_s"),)) if path is None else read_trace(path)
        text = trace_text(own, _factors(steps, self._change.repeat_every), self._calm.time_s)
        name = f"{direction}-{sha256(text.encode()).hexdigest()[:12]}.csv"
        self.files[name] = text
        return name


def trace_text(own: BandwidthTrace, factors: Sequence[tuple[float, float]], run_s: float) -> str:
    """Return the CSV text of a link's own rates times *factors*, (time as a share of *run_s*, factor) in order."""
    starts_s = [share * run_s for share, _ in factors]
    lines = [HEADER]
    for time_s in sorted({*own.times_s, *starts_s}):
        factor = factors[bisect_right(starts_s, time_s) - 1][1]
        lines.append(f"{time_s!r},{own.rate_at(time_s) * factor!r}")
    return "\n".join(lines) + "\n"


def _factors(steps: Sequence[LinkStep], repeat_every: float | None) -> list[tuple[float, float]]:
    if repeat_every is None:
        return [(step.at, step.factor) for step in steps]
    times = int(REPEATS_UNTIL / repeat_every)
    again = [(n * repeat_every + step.at, step.factor) for n in range(times) for step in steps]
    return [*again, (times * repeat_every, 1.0)]


def _plain(entry: FleetEntry) -> dict[str, Any]:
    return entry.model_dump(mode="json", exclude_none=True)


def _at_time(value: Any, run_s: float) -> Any:
    """Return a plain value with every "0.3 run" in it as seconds."""
    if isinstance(value, dict):
        return {key: _at_time(item, run_s) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_at_time(item, run_s) for item in value]
    share = run_share(value)
    return deepcopy(value) if share is None else share * run_s


def _get(plain: Mapping[str, Any], key: str) -> Any:
    for part in key.split("."):
        plain = plain[part]
    return plain


def _put(plain: dict[str, Any], key: str, value: Any) -> None:
    *above, last = key.split(".")
    for part in above:
        plain = plain.setdefault(part, {})
    plain[last] = value
