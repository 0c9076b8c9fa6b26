"""The section `task_arrival`: when a client comes to its next task.

{lockstep: true}     when all clients have finished theirs
{every_s: 3600}      at a time, whether or not it has finished the one before; what has come waits in a row
{trace: FILE}        at the times, and in the order, that a file has for each client
"""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from fedknow_ray.config.fields import DurationS, Flag, Folder, Frozen


class TaskArrivalConfig(Frozen):
    """One of the three keys; none of them is lockstep."""

    lockstep: Flag | None = None
    """All clients learn the same place of their sequences, training.rounds_per_task rounds long."""
    every_s: DurationS | None = None
    """The time between a client's tasks, of which the first is there from the beginning."""
    trace: Folder | None = None
    """CSV file of client_id,time_s,task, relative to the working directory."""

    @model_validator(mode="before")
    @classmethod
    def _lockstep_unless_said(cls, keys: Any) -> Any:
        return {"lockstep": True} if keys == {} else keys

    @model_validator(mode="after")
    def _one(self) -> TaskArrivalConfig:
        given = [name for name in TaskArrivalConfig.model_fields if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"must be one of lockstep, every_s and trace, got {' and '.join(given)}; keep one")
        if self.lockstep is False:
            raise ValueError("lockstep: false does not say when tasks come; give every_s or trace in its place")
        return self

    @property
    def in_lockstep(self) -> bool:
        """Whether all clients learn the same place of their sequences at once."""
        return self.every_s is None and self.trace is None

    def plain(self) -> dict[str, Any]:
        """Return the one key that holds, as plain values."""
        return self.model_dump(mode="json", exclude_none=True)
