"""Another future for a run, from the end of one of its tasks: with another method, other training, other conditions.

The past stays what it was. Where the other method, with its settings, would have had the same past, the fork is, to the
bit, the run that it would be from its beginning. Where the method is another one, clients keep their models and heads,
and what the old method remembered is dropped: the new one begins as if all past tasks had been thrown away
(`federation.eviction`). The same method with settings that its past depends on is refused: what clients remember was
made with others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedknow_ray.config.model import RunConfig
from fedknow_ray.errors import RunDirectoryError, UserError
from fedknow_ray.experiment.assembly import Parts, last_facts
from fedknow_ray.experiment.checkpoint import Checkpoint, open_checkpoint
from fedknow_ray.experiment.differences import differences
from fedknow_ray.experiment.past import Past
from fedknow_ray.experiment.place import Place
from fedknow_ray.experiment.run import Overrides, make_run, read_config
from fedknow_ray.experiment.run_checkpoints import boundary_checkpoint
from fedknow_ray.experiment.watching import Watcher
from fedknow_ray.federation.boundary import Boundary
from fedknow_ray.federation.eviction import Evicted
from fedknow_ray.federation.executor import Saved
from fedknow_ray.federation.standing import SchedulerState
from fedknow_ray.federation.state_bytes import dump_state, load_state
from fedknow_ray.federation.visit import begun_anew
from fedknow_ray.methods.catalogue import METHODS
from fedknow_ray.results.run import Run
from fedknow_ray.results.store import CONFIG_FILE

#: Sections that both futures have in common: what is learnt, by whom, on what, and in which shape it is sent.
SHARED = ("seed", "scenario", "model", "fleet", "devices_path", "compression", "task_arrival")


def fork(
    run_dir: str | Path,
    task_index: int,
    overrides: Overrides,
    *,
    out: str | Path | None = None,
    place: Place | None = None,
    watcher: Watcher | None = None,
) -> Run:
    """Start another run from where a run begins with a task, and return it finished.

    Raises:
        UserError: if there is no such run or place of it, or the futures cannot have this past in common.
        PlacementError: if the nodes cannot hold the fleet.
    """
    folder = Path(run_dir)
    if not (folder / CONFIG_FILE).is_file():
        raise RunDirectoryError(f"{folder} is not a run directory: it has no {CONFIG_FILE}")
    recorded, config = read_config(folder / CONFIG_FILE), read_config(folder / CONFIG_FILE, overrides)
    _refuse_other_scenario(recorded, config)
    checkpoint = _open(folder, task_index, config)
    past = ForkPast(checkpoint, recorded, config)
    past.refuse_unsuitable()
    return make_run(folder.name, config, past=past, out=out, place=place or Place(), watcher=watcher)


@dataclass(frozen=True)
class ForkPast(Past):
    """The past of a fork: that of the run, with what its method remembers if the other one has the same past."""

    recorded: RunConfig
    config: RunConfig

    def origin(self) -> dict[str, Any]:
        """Return what the manifest of the fork says of it; see `is_the_same`."""
        return {**super().origin(), "method": self.recorded.method.name, "same_past": self.is_the_same}

    @property
    def is_the_same(self) -> bool:
        """Whether the other method would have had this past as well."""
        there, here = (_past_settings(config, self.checkpoint.boundary) for config in (self.recorded, self.config))
        return there == here

    def refuse_unsuitable(self) -> None:
        """Refuse a method that cannot begin with what there is.

        Raises:
            UserError: says why.
        """
        if self.is_the_same:
            return
        boundary = self.checkpoint.boundary
        if self.config.method.name == self.recorded.method.name:
            there, here = (_past_settings(config, boundary) for config in (self.recorded, self.config))
            keys = ", ".join(
                f"method.{each.key} (was {each.there})" for each in differences(there, here, absent="nothing")
            )
            raise UserError(
                f"what clients remember at {boundary} was made with other settings of the same method: {keys}; "
                "leave them as they were, or run from the beginning"
            )

    def begin(self, parts: Parts, made_with: Mapping[str, str]) -> tuple[Saved, SchedulerState]:
        """Return what the run begins with.

        Raises:
            UserError: if the method needs to remember past tasks, and cannot do without.
        """
        saved, state = super().begin(parts, made_with)
        if self.is_the_same:
            return saved, state
        tasks, method = self.checkpoint.boundary.task_index + 1, parts.ledger.method
        if method.kept_bytes(replace(last_facts(parts.course), task_index=tasks)) and not method.evicts:
            raise UserError(
                f"method {self.config.method.name} keeps knowledge of past tasks and cannot begin without that of the "
                f"{tasks} before; fork to a method that can, or run it from the beginning"
            )
        forgotten = {client_id: Evicted(tasks, tasks) for client_id in parts.course.clients}
        engine = replace(state.engine, evicted=forgotten if method.evicts else {})
        states = _Forgetting(saved.states, self.recorded)
        saved = replace(saved, broadcast=begun_anew(saved.broadcast, method), states=states)
        return saved, replace(state, engine=engine)


class _Forgetting(Mapping[int, bytes]):
    """Clients' states without what a method remembers, each made when it is asked for."""

    def __init__(self, states: Mapping[int, bytes], recorded: RunConfig) -> None:
        self._states, self._method = states, METHODS.get(recorded.method.name)

    def __getitem__(self, client_id: int) -> bytes:
        state = load_state(self._states[client_id], self._method.memory_types)
        return dump_state(replace(state, memory=None), ())

    def __iter__(self) -> Iterator[int]:
        return iter(self._states)

    def __len__(self) -> int:
        return len(self._states)


def _open(folder: Path, task_index: int, config: RunConfig) -> Checkpoint:
    """Return the checkpoint of the end of the task before.

    Raises:
        UserError: if there is none.
    """
    last = config.scenario.places - 1
    if not 1 <= task_index <= last:
        raise UserError(
            f"--fork-at-task {task_index}: a run of {last + 1} tasks can be forked at 1 to {last}, where that task "
            "begins (they count from 0)"
        )
    path = boundary_checkpoint(folder, task_index - 1)
    if not path.is_file():
        raise UserError(
            f"{folder} has no {path.name}: the run did not get so far, or was not saved there "
            "(recovery.keep_task_ends, recovery.checkpoint_every_rounds)"
        )
    checkpoint = open_checkpoint(path)
    checkpoint.check_whole()
    return checkpoint


def _refuse_other_scenario(recorded: RunConfig, config: RunConfig) -> None:
    changed = [
        each
        for each in differences(recorded.to_dict(), config.to_dict(), absent="nothing")
        if each.key.split(".")[0] in SHARED
    ]
    if changed:
        keys = ", ".join(f"{each.key} (was {each.there})" for each in changed)
        raise UserError(f"two futures of one past have {', '.join(SHARED)} in common; leave out {keys}")


def _past_settings(config: RunConfig, boundary: Boundary) -> dict[str, Any]:
    method = METHODS.get(config.method.name)
    return method.past_settings(config.method.hyper, boundary.task_index, finished=boundary.finished)
