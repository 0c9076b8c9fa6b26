"""The past that a run goes on from, which another run has made and saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedknow_ray.config.model import RunConfig
from fedknow_ray.experiment.assembly import Parts
from fedknow_ray.experiment.checkpoint import Checkpoint, open_checkpoint
from fedknow_ray.federation.executor import Saved
from fedknow_ray.federation.standing import SchedulerState


@dataclass(frozen=True)
class Past:
    """A checkpoint at a boundary, all of it whole."""

    checkpoint: Checkpoint

    @staticmethod
    def open(path: Path, config: RunConfig) -> Past:
        """Return the past in a file, for a run of this config.

        Raises:
            CheckpointError: if it is broken, or the run would have had another.
        """
        checkpoint = open_checkpoint(path)
        checkpoint.check_past(config)
        checkpoint.check_whole()
        return Past(checkpoint)

    def origin(self) -> dict[str, Any]:
        """Return what the manifest of the run says of it."""
        return self.checkpoint.origin()

    def begin(self, parts: Parts, made_with: Mapping[str, str]) -> tuple[Saved, SchedulerState]:
        """Return what a run of these parts begins with.

        Raises:
            CheckpointError: if it was made with other data or by other code.
        """
        self.checkpoint.check_made_with(made_with)
        return self.checkpoint.contents().saved, self.checkpoint.state
