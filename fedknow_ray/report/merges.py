"""When visits ended and updates were merged, from the tables of a run."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from fedknow_ray.report.recorded import in_lockstep
from fedknow_ray.results.run import Run

Row = Mapping[str, Any]


def end_s(visit: Row) -> float:
    """Return when a visit ended on the virtual clock; what its client waited for afterwards is not in it."""
    return float(visit["start_s"] + visit["download_s"] + visit["compute_s"] + visit["upload_s"])


def slack_s(time_s: float) -> float:
    """Return how far apart two sums of seconds may be that stand for one moment of the virtual clock."""
    return 1e-9 * max(1.0, abs(time_s))


def visits_by_round(run: Run, visits: Sequence[Row]) -> dict[tuple[int | None, int], list[Row]]:
    """Return the visits that each round started, by (task_index, round_index) of the round; none where a key is absent.

    Indices tell. Where each client has tasks of its own, those of a visit count its client's visits, and times tell:
    rounds come one after the other.
    """
    found: dict[tuple[int | None, int], list[Row]] = defaultdict(list)
    if in_lockstep(run):
        for visit in visits:
            found[visit["task_index"], visit["round_index"]].append(visit)
        return found
    rounds = sorted(run.rounds.to_pylist(), key=lambda row: (row["start_s"], row["round_index"]))
    ends_s = [row["end_s"] for row in rounds]
    for visit in visits:
        place = bisect_right(ends_s, visit["start_s"])
        if visit["kind"] != "finish_task" and place < len(rounds):
            found[None, rounds[place]["round_index"]].append(visit)
    return found


def merge_times_s(run: Run) -> dict[int, float]:
    """Return when each merge was made, by its index, ascending.

    A merge closes its round, except where `refine` visits follow it: these begin with it. What is waited for may be
    no more than a deadline, so the last update of a merge alone does not tell.
    """
    last_s: dict[int, float] = {}
    for visit in run.visits.to_pylist():
        merge = visit["merge_index"]
        if merge is not None:
            last_s[merge] = max(last_s.get(merge, 0.0), end_s(visit) + visit["wait_s"])
    closes_s = sorted(run.rounds["end_s"].to_pylist())
    refines_s = sorted(v["start_s"] for v in run.visits.to_pylist() if v["kind"] == "refine")
    return {merge: _merged_s(last_s[merge], closes_s, refines_s) for merge in sorted(last_s)}


def _merged_s(last_s: float, closes_s: list[float], refines_s: list[float]) -> float:
    from_s = last_s - slack_s(last_s)
    close = bisect_left(closes_s, from_s)
    if close == len(closes_s):
        return last_s
    refine = bisect_left(refines_s, from_s)
    refines_first = refine < len(refines_s) and refines_s[refine] < closes_s[close]
    return refines_s[refine] if refines_first else closes_s[close]
