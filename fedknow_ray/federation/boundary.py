"""Positions in the course of a run at which it can be saved and taken up again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Boundary:
    """The end of a task's rounds, or the end of the task.

    *finished* False: all rounds of the task are made, its end is not. True: the visits at its end and the scores are
    made too. Boundaries are ordered as they come in a run.
    """

    task_index: int
    finished: bool

    def __str__(self) -> str:
        return f"task-{self.task_index}-{'finished' if self.finished else 'trained'}"
