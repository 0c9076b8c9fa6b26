"""The robustness card: what each stressed run kept, and what it cost, against the calm run. Pure numbers.

A visit is *lost* if its status is not `ok`. It is *survived* if a later visit of the same client came to its end. Bytes
are *wasted* that were sent for lost visits, and for updates that arrived and went into no merge. Of accuracy is *kept*
the ratio of means over clients and learnt tasks at the end, where a client that has no model in one of the two runs has
got nothing right there: a run does not become better by losing its clients.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from fedknow_ray.experiment.stress_file import Column, Stress
from fedknow_ray.metrics.continual import client_accuracies

Scores: TypeAlias = Mapping[tuple[int, int], float]
"""(client id, task index) -> share of its test images that a model gets right; nothing where there is no model."""

_READ = ("client_id", "kind", "status", "start_s", "upload_bytes", "download_bytes", "energy_j", "merge_index")


@dataclass(frozen=True, slots=True)
class Toll:
    """What a run took: *energy_j* None where a device's watts are not known, *lost* visits by their status."""

    time_s: float
    energy_j: float | None
    sent_bytes: int
    wasted_bytes: int
    visits: int
    lost: Mapping[str, int]
    survived: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run: its toll, and the scores of the own and of the global models at its end."""

    toll: Toll
    own: Scores
    shared: Scores


@dataclass(frozen=True, slots=True)
class CardRow:
    """One stress against the calm run. All numbers are None where the run did not finish, and *failure* says why.

    *feels* is whether the run differs from the calm one in the column that the stress names.
    """

    stress: str
    title: str
    differs_in: str
    feels: bool | None = None
    accuracy_kept: float | None = None
    accuracy_kept_global: float | None = None
    time_ratio: float | None = None
    energy_ratio: float | None = None
    wasted_bytes: int | None = None
    wasted_fraction: float | None = None
    lost_visits: int | None = None
    lost_by: Mapping[str, int] | None = None
    survived_visits: int | None = None
    failure: str | None = None

    def plain(self) -> dict[str, Any]:
        """Return the row as values that JSON can hold."""
        return asdict(self)

    def is_below(self, limit: float) -> bool:
        """Return whether less than *limit* of an accuracy was kept; a run that did not finish has kept nothing."""
        kept = [value for value in (self.accuracy_kept, self.accuracy_kept_global) if value is not None]
        return min(kept, default=0.0) < limit


def toll_of(visits: pa.Table, time_s: float) -> Toll:
    """Return the toll of a run from its table of visits and its virtual seconds."""
    rows = visits.select(_READ).to_pylist()
    last_arrival_s: dict[int, float] = defaultdict(lambda: -1.0)
    for row in rows:
        if row["status"] == "ok":
            last_arrival_s[row["client_id"]] = max(last_arrival_s[row["client_id"]], row["start_s"])
    lost = [row for row in rows if row["status"] != "ok"]
    joules = [row["energy_j"] for row in rows]
    return Toll(
        time_s=time_s,
        energy_j=None if None in joules else sum(joules),
        sent_bytes=sum(map(_bytes, rows)),
        wasted_bytes=sum(_bytes(row) for row in rows if _is_wasted(row)),
        visits=len(rows),
        lost=dict(sorted(Counter(row["status"] for row in lost).items())),
        survived=sum(last_arrival_s[row["client_id"]] >= row["start_s"] for row in lost),
    )


def outcome_of(visits: pa.Table, accuracy: pa.Table, time_s: float) -> Outcome:
    """Return the outcome of a finished run from its tables and its virtual seconds."""
    return Outcome(toll_of(visits, time_s), _final_scores(accuracy, "own"), _final_scores(accuracy, "global"))


def mean_accuracy(scores: Scores) -> float | None:
    """Return the mean over tasks of the means over clients; None without scores."""
    return _mean_over(scores, scores.keys()) if scores else None


def kept(calm: Scores, scores: Scores) -> float | None:
    """Return the share of the calm run's accuracy that a run has kept; None where the calm run has got nothing right.

    >>> kept({(0, 0): 0.8, (1, 0): 0.8}, {(0, 0): 0.8})
    0.5
    """
    cells = calm.keys() | scores.keys()
    return _ratio(_mean_over(scores, cells), _mean_over(calm, cells)) if calm else None


def card_row(stress: Stress, calm: Outcome, outcome: Outcome) -> CardRow:
    """Return a stress's row from the outcomes of the calm run and of its own."""
    toll = outcome.toll
    return CardRow(
        stress=stress.name,
        title=stress.title,
        differs_in=stress.differs_in,
        feels=feels(stress.differs_in, calm.toll, toll),
        accuracy_kept=kept(calm.own, outcome.own),
        accuracy_kept_global=kept(calm.shared, outcome.shared),
        time_ratio=_ratio(toll.time_s, calm.toll.time_s),
        energy_ratio=_ratio(toll.energy_j, calm.toll.energy_j),
        wasted_bytes=toll.wasted_bytes,
        wasted_fraction=_ratio(toll.wasted_bytes, toll.sent_bytes),
        lost_visits=sum(toll.lost.values()),
        lost_by=toll.lost,
        survived_visits=toll.survived,
    )


def feels(column: Column, calm: Toll, toll: Toll) -> bool:
    """Return whether a run differs from the calm one in a column of the card."""
    match column:
        case "time_ratio":
            return toll.time_s != calm.time_s
        case "energy_ratio":
            return toll.energy_j != calm.energy_j
        case "wasted_bytes":
            return toll.wasted_bytes != calm.wasted_bytes
        case "lost_visits":
            return toll.lost != calm.lost


def failed_row(stress: Stress, message: str) -> CardRow:
    """Return the row of a stress whose run did not finish."""
    return CardRow(stress.name, stress.title, stress.differs_in, failure=message)


def below(rows: Sequence[CardRow], limit: float) -> list[CardRow]:
    """Return the rows that have kept less than *limit* of an accuracy of the calm run."""
    return [row for row in rows if row.is_below(limit)]


def _final_scores(accuracy: pa.Table, model: str) -> Scores:
    ids_C, accuracy_CTT = client_accuracies(accuracy, model)
    if not len(ids_C):
        return {}
    final_CT = accuracy_CTT[:, -1]
    return {(int(ids_C[c]), int(t)): float(final_CT[c, t]) for c, t in np.argwhere(~np.isnan(final_CT))}


def _mean_over(scores: Scores, cells: Iterable[tuple[int, int]]) -> float:
    by_task: dict[int, list[float]] = defaultdict(list)
    for client_id, task_index in sorted(cells):
        by_task[task_index].append(scores.get((client_id, task_index), 0.0))
    return fmean(fmean(values) for values in by_task.values())


def _bytes(visit: Mapping[str, Any]) -> int:
    return int(visit["upload_bytes"] + visit["download_bytes"])


def _is_wasted(visit: Mapping[str, Any]) -> bool:
    unused = visit["kind"] == "train" and visit["upload_bytes"] > 0 and visit["merge_index"] is None
    return visit["status"] != "ok" or unused


def _ratio(value: float | None, of: float | None) -> float | None:
    """Return a quotient; None where a part of it is missing, or nothing was there to keep."""
    return None if value is None or not of else value / of
