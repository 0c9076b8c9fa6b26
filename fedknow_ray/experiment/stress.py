"""The stress suite: one config, run once in calm and once under each stress, and the card that compares them.

    config -> the calm run's course, told without training -> stressed configs, all checked -> runs -> card

In the folder *out*: `configs/NAME.yaml` and `inputs` what each run is made from, `runs/NAME` its directory, and
`card.json`. A run that is there with the same config is not made again. The calm run is called `calm`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedknow_ray.config.loading import dump_yaml
from fedknow_ray.config.model import RunConfig
from fedknow_ray.config.yaml import format_yaml
from fedknow_ray.errors import RunDirectoryError, UserError, WorkerError
from fedknow_ray.experiment.assembly import Parts, open_data, put_together
from fedknow_ray.experiment.catalogue import devices_with
from fedknow_ray.experiment.claims import claimed
from fedknow_ray.experiment.differences import differences
from fedknow_ray.experiment.making import RunsWatcher, make_runs, refuse_no_jobs, workers_or_processes
from fedknow_ray.experiment.planning import is_made
from fedknow_ray.experiment.run import Overrides, read_config
from fedknow_ray.experiment.stress_card import CardRow, Outcome, card_row, failed_row, mean_accuracy, outcome_of
from fedknow_ray.experiment.stress_config import Calm, stressed_config
from fedknow_ray.experiment.stress_file import Stress, read_stresses
from fedknow_ray.experiment.workers import Failure, RunOrder, Workers
from fedknow_ray.federation.arriving import make_engine
from fedknow_ray.federation.flight import Flight
from fedknow_ray.federation.steps import Closed
from fedknow_ray.results import load, write_atomically

CALM = "calm"
CARD_FILE = "card.json"
_CONFIGS, _INPUTS, _RUNS = "configs", "inputs", "runs"


@dataclass(frozen=True)
class Card:
    """The result of a suite; *failures* are the stressed runs that did not finish."""

    out: Path
    calm: Outcome
    rows: tuple[CardRow, ...]
    failures: Mapping[str, Failure]

    def plain(self) -> dict[str, Any]:
        """Return the card as values that JSON can hold."""
        toll = self.calm.toll
        return {
            "out": str(self.out),
            "calm": {
                "average_accuracy": mean_accuracy(self.calm.own),
                "average_accuracy_global": mean_accuracy(self.calm.shared),
                "virtual_time_s": toll.time_s,
                "energy_j": toll.energy_j,
                "sent_bytes": toll.sent_bytes,
                "wasted_bytes": toll.wasted_bytes,
                "visits": toll.visits,
                "lost_visits": sum(toll.lost.values()),
                "lost_by": dict(toll.lost),
                "survived_visits": toll.survived,
            },
            "stresses": [row.plain() for row in self.rows],
        }


def run_suite(
    path: Path,
    out: Path,
    watcher: RunsWatcher,
    *,
    overrides: Overrides = (),
    only: Sequence[str] = (),
    jobs: int | None = None,
    workers: Workers | None = None,
) -> Card:
    """Make the calm run of a config and the runs under each stress, *only* those if it names any; return the card.

    *jobs* runs are made at once, by default as many as there are cores for at the threads of a run. *workers* make the
    runs in place of processes of their own.

    Raises:
        UserError: before anything is run, if an option, a config or what lies in *out* is wrong; or if the calm run
            fails by the user's fault.
        WorkerError: if the calm run fails by ours.
    """
    refuse_no_jobs(jobs)
    stresses = read_stresses(only)
    config = read_config(path, overrides)
    if config.clock != "virtual":
        raise UserError(
            f"clock: {config.clock}: no two runs have the same times, so a stress cannot be told from the host's own "
            "ups and downs; give --set clock=virtual"
        )
    _refuse_other_folder(out, config)
    calm = calm_of(config)
    with claimed(out):
        configs = _write_configs(out, stresses, calm)
        pending = [name for name in configs if not _is_made_with(out / _RUNS / name, configs[name])]
        watcher.planned(len(configs), len(configs) - len(pending))
        orders = {name: RunOrder(str(_config_path(out, name)), (), str(out / _RUNS / name)) for name in pending}
        with workers_or_processes(workers, jobs, configs.values(), len(pending)) as makers:
            failures = make_runs(orders, makers, watcher)
        if CALM in failures:
            kind = WorkerError if failures[CALM].is_ours else UserError
            raise kind(f"the calm run failed, and a card is against it\n{failures[CALM].message.strip()}")
        card = _make_card(out, stresses, failures)
        write_atomically(out / CARD_FILE, (json.dumps(card.plain(), indent=2) + "\n").encode())
    return card


def calm_of(config: RunConfig) -> Calm:
    """Return the calm run as far as it is known without training.

    Raises:
        DataError: if the data is missing, or does not suffice for the scenario.
        DeviceError: if a device lacks a number that the run needs.
    """
    flights, time_s = tell(put_together(config, open_data(config)))
    own = config.devices_path
    files = () if own is None else (own,) if own.is_file() else sorted(own.glob("*.yaml"))
    return Calm(
        config=config,
        time_s=time_s,
        peak_memory_bytes=max(flight.priced.plan.peak_memory_bytes for flight in flights),
        device=devices_with(own).get,
        own_devices={file.name: file.read_text(encoding="utf-8") for file in files},
    )


def tell(parts: Parts) -> tuple[list[Flight], float]:
    """Return the visits of a run in the order in which they are recorded, and its virtual seconds, without training."""
    engine = make_engine(parts.course, parts.ledger, parts.make_policy(), parts.conditions)
    flights = [flight for step in engine.tell() if isinstance(step, Closed) for flight in step.flights]
    return flights, engine.now_s


def _refuse_other_folder(out: Path, config: RunConfig) -> None:
    """Refuse a folder that is something else, or a suite of another config.

    Raises:
        RunDirectoryError: in both cases.
    """
    if not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not (out / _CONFIGS / f"{CALM}.yaml").is_file()):
        raise RunDirectoryError(
            f"{out} is there and is no stress suite; name a folder that is new or empty, or has one"
        )
    there = out / _RUNS / CALM
    found = list(differences(load(there).config, config.to_dict(), absent="absent")) if is_made(there) else []
    if found:
        told = "; ".join(f"{key} is {old} there, {new} here" for key, old, new in found[:3])
        raise RunDirectoryError(
            f"the calm run in {out} was made with another config: {told}\n"
            "give the config and the --set of the first call, or another --out"
        )


def _write_configs(out: Path, stresses: Mapping[str, Stress], calm: Calm) -> dict[str, RunConfig]:
    """Write what each run is made from, and return the configs by name, the calm run's first; all are checked."""
    texts = {CALM: dump_yaml(calm.config)}
    for name, stress in stresses.items():
        stressed = stressed_config(stress, calm, out / _INPUTS)
        for path, text in stressed.files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text.encode())
        texts[name] = format_yaml(stressed.config)
    (out / _CONFIGS).mkdir(exist_ok=True)
    for name, text in texts.items():
        write_atomically(_config_path(out, name), text.encode())
    return {name: read_config(_config_path(out, name)) for name in texts}


def _is_made_with(folder: Path, config: RunConfig) -> bool:
    return is_made(folder) and not any(differences(load(folder).config, config.to_dict(), absent="absent"))


def _make_card(out: Path, stresses: Mapping[str, Stress], failures: Mapping[str, Failure]) -> Card:
    calm = _outcome(out / _RUNS / CALM)
    rows = [
        failed_row(stress, failures[name].message.strip().splitlines()[-1])
        if name in failures
        else card_row(stress, calm, _outcome(out / _RUNS / name))
        for name, stress in stresses.items()
    ]
    return Card(out, calm, tuple(rows), failures)


def _outcome(folder: Path) -> Outcome:
    run = load(folder)
    summary = run.summary
    if summary is None:
        raise RunDirectoryError(f"{folder} has lost its summary while the card was made; give the command again")
    return outcome_of(run.visits, run.accuracy, summary["virtual_time_s"])


def _config_path(out: Path, name: str) -> Path:
    return out / _CONFIGS / f"{name}.yaml"
