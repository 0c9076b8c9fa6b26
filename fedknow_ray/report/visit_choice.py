"""Which recorded visits a client and a round mean. Rounds are counted over the run, or within a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedknow_ray.errors import UserError
from fedknow_ray.report.merges import visits_by_round
from fedknow_ray.results.run import Run

_SHOWN = 12


class NoSuchVisit(UserError):
    """A client, task or round that the run does not have; the message has the valid range."""


def choose_visits(run: Run, client_id: int, round_number: int, task_index: int | None = None) -> list[dict[str, Any]]:
    """Return the rows of a client's visits in a round, in order of time: of methods that refine, two.

    Without *task_index* rounds are counted over the run, those of task 0 first. With it they are counted within that
    task, and the number after its last round means the end of the task.

    Raises:
        NoSuchVisit: if there is none.
    """
    clients = sum(entry["count"] for entry in run.config["fleet"])
    if not 0 <= client_id < clients:
        raise NoSuchVisit(f"there is no client {client_id}; the clients are 0 to {clients - 1}")
    task, round_index = _place(run, round_number, task_index)
    own = [row for row in run.visits.to_pylist() if row["client_id"] == client_id]
    found = _of_place(run, own, task, round_index)
    if not found:
        numbers = _numbers(run, own, task_index)
        where = f"round {round_number}" + ("" if task_index is None else f" of task {task_index}")
        raise NoSuchVisit(f"client {client_id} made no visit in {where}; {_shown(numbers)}")
    return sorted(found, key=lambda row: row["start_s"])


def _of_place(run: Run, rows: Sequence[dict[str, Any]], task: int | None, round_index: int) -> list[dict[str, Any]]:
    """Return those of some visits that belong to a round; without a task to one that is counted over the run."""
    if task is None:
        return [dict(row) for row in visits_by_round(run, rows)[None, round_index]]
    return [row for row in rows if (row["task_index"], row["round_index"]) == (task, round_index)]


def _place(run: Run, round_number: int, task_index: int | None) -> tuple[int | None, int]:
    """Return the indices of the task and of the round within it; no task where rounds belong to none."""
    rounds = _rounds(run)
    if task_index is None:
        if not 0 <= round_number < len(rounds):
            raise NoSuchVisit(f"there is no round {round_number}; the run has {_range('round', len(rounds))}")
        return rounds[round_number]
    tasks = 1 + max(run.visits["task_index"].to_pylist(), default=-1)
    if not 0 <= task_index < tasks:
        raise NoSuchVisit(f"there is no task {task_index}; the run has {_range('task', tasks)}")
    last = max(row["round_index"] for row in run.visits.to_pylist() if row["task_index"] == task_index)
    if not 0 <= round_number <= last:
        raise NoSuchVisit(
            f"there is no round {round_number} of task {task_index}; it has rounds 0 to {last}, its end included"
        )
    return task_index, round_number


def _rounds(run: Run) -> list[tuple[int | None, int]]:
    places = ((row["task_index"], row["round_index"]) for row in run.rounds.to_pylist())
    return sorted(places, key=lambda place: (place[0] or 0, place[1]))


def _numbers(run: Run, rows: Sequence[dict[str, Any]], task_index: int | None) -> list[int]:
    """Return the rounds of some visits as they are counted here."""
    if task_index is not None:
        return sorted({row["round_index"] for row in rows if row["task_index"] == task_index})
    began = visits_by_round(run, rows)
    return [number for number, place in enumerate(_rounds(run)) if place in began]


def _range(what: str, count: int) -> str:
    return f"{what}s 0 to {count - 1}" if count else f"no {what}"


def _shown(numbers: Sequence[int]) -> str:
    if not numbers:
        return "it made none in any of them; --task T shows the end of a task"
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return f"it made visits in {', '.join(map(str, numbers[:_SHOWN]))}{more}"
