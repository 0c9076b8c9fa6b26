"""At which boundaries of its course a run is saved for other runs, and where."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedknow_ray.config.model import RunConfig
from fedknow_ray.errors import UserError
from fedknow_ray.experiment.checkpoint import Contents, make_folder, past_tables, save_checkpoint
from fedknow_ray.experiment.past import Past
from fedknow_ray.federation.boundary import Boundary
from fedknow_ray.federation.executor import Executor
from fedknow_ray.federation.scheduler import Scheduler
from fedknow_ray.federation.standing import Progress
from fedknow_ray.results.store import ResultStore


@dataclass(frozen=True, slots=True)
class Boundaries:
    """Where a run is saved."""

    config: RunConfig
    boundaries: frozenset[Boundary]
    folder: Path

    @staticmethod
    def of(
        save_at: Collection[Boundary], folder: str | Path | None, config: RunConfig, past: Past | None
    ) -> Boundaries | None:
        """Return the boundaries to save a run at, and make the folder for them; None where there are none.

        Raises:
            UserError: if the run never comes to one of them, or there is no folder for them.
        """
        if not save_at:
            return None
        if not config.task_arrival.in_lockstep:
            raise UserError(
                "a run can be saved between tasks, and with this task_arrival they come to each client by time"
            )
        if folder is None:
            raise UserError("save_at needs checkpoints, the folder to save in")
        last = Boundary(config.scenario.places - 1, True)
        begins = None if past is None else past.checkpoint.boundary
        missed = [b for b in sorted(save_at) if b > last or b.task_index < 0 or (begins is not None and b <= begins)]
        if missed:
            start = "the beginning" if begins is None else str(begins)
            names = ", ".join(map(str, missed))
            raise UserError(f"a run from {start} to {last} cannot be saved at {names}; name boundaries in between")
        make_folder(Path(folder))
        return Boundaries(config, frozenset(save_at), Path(folder))

    def save(
        self,
        progress: Progress,
        scheduler: Scheduler,
        executor: Executor,
        store: ResultStore,
        made_with: Mapping[str, str],
        wall_s: float,
    ) -> None:
        """Save a run that stands at one of the boundaries; *made_with* and *wall_s* as in `Header`."""
        if progress.boundary in self.boundaries:
            contents = Contents(executor.save(), past_tables(store))
            state = scheduler.state()
            save_checkpoint(self.folder, self.config, state, contents, made_with=made_with, wall_s=wall_s)
