"""Who holds a run up: whose visit, and which phase of it, sets the length of each round.

A round ends with the visit that it waits for. The client of that visit gets the seconds of the round, phase by phase:
what it downloaded, computed and sent between the round's start and its end, which includes finishing a past task that
it had missed. Seconds of the round before it began were spent on waiting for somebody to be on, and are nobody's.

    ended by an update that arrived     the visit that ended at that moment
    ended by a deadline, or losses      the visits that were on their way until then, or lost at that moment
    several of them                     each an equal part
    with `refine` visits                the part up to the merge, and the part after it, each by itself

Without rounds nobody waits, and slow clients cost in another way: their updates are stale. The staleness of an update
is the number of merges between the start of its visit and its own merge. Each of them is blamed on what the client was
doing when it was made.

Pure: from tables to numbers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

from fedknow_ray.report.merges import Row, end_s, merge_times_s, slack_s, visits_by_round
from fedknow_ray.results.run import Run

PHASES = ("download", "compute", "upload", "wait")
_MOVES = PHASES[:3]


@dataclass(frozen=True, slots=True)
class Share:
    """What one phase of one client's visit is to blame for, in seconds or in merges; *client_id* None: nobody."""

    client_id: int | None
    device: str | None
    phase: str
    amount: float


@dataclass(frozen=True, slots=True)
class Blame:
    """A round and its seconds, or a merge and the staleness of its updates, and whose they are."""

    task_index: int | None
    """None where each client has tasks of its own."""
    index: int
    """The round within the task, or where there is none over the run; or the merge, counted over the run."""
    amount: float
    shares: tuple[Share, ...]

    @property
    def client_ids(self) -> list[int]:
        """The clients to blame, ascending."""
        return sorted({share.client_id for share in self.shares if share.client_id is not None})

    def of_phase(self, phase: str) -> float:
        """Return the amount of one phase, of all clients together."""
        return sum(share.amount for share in self.shares if share.phase == phase)


@dataclass(frozen=True, slots=True)
class Total:
    """What one client, or one kind of device, is to blame for in all: *phases* in parts of everything, which is 1.

    *client_id* is None for a kind of device; *device* is None as well for what is nobody's.
    """

    client_id: int | None
    device: str | None
    phases: dict[str, float]

    @property
    def share(self) -> float:
        """All phases together."""
        return sum(self.phases.values())


def round_blame(run: Run) -> list[Blame]:
    """Return who set the length of each round, in the order of the virtual clock."""
    visits = run.visits.to_pylist()
    of_client = defaultdict(list)
    for visit in visits:
        of_client[visit["client_id"]].append(visit)
    rounds = sorted(
        run.rounds.to_pylist(), key=lambda row: (row["start_s"], row["task_index"] or 0, row["round_index"])
    )
    began_in = visits_by_round(run, visits)
    blames = []
    for row in rounds:
        task, index, ends_s = row["task_index"], row["round_index"], row["end_s"]
        trained, refined = ([v for v in began_in[task, index] if v["kind"] == kind] for kind in ("train", "refine"))
        merged_s = min((visit["start_s"] for visit in refined), default=ends_s)
        shares = [
            *_stage(row["start_s"], merged_s, trained, of_client),
            *_stage(merged_s, ends_s, refined, of_client),
        ]
        blames.append(Blame(task, index, ends_s - row["start_s"], tuple(shares)))
    return blames


def _stage(from_s: float, to_s: float, visits: Sequence[Row], of_client: dict[int, list[Row]]) -> list[Share]:
    """Return whose the seconds of a round, or of a part of it, are; *visits* are those that it waited for."""
    if to_s <= from_s:
        return []
    culprits = _waited_for(visits, to_s)
    shares: list[Share] = []
    for culprit in culprits:
        client_id, device = culprit["client_id"], culprit["device"]
        spent_s = _spent_s(of_client[client_id], from_s, to_s)
        shares += [Share(client_id, device, phase, spent_s[phase] / len(culprits)) for phase in _MOVES]
    nobodys_s = to_s - from_s - sum(share.amount for share in shares)
    if nobodys_s > slack_s(to_s):
        shares.append(Share(None, None, "wait", nobodys_s))
    return [share for share in shares if share.amount > 0]


def _waited_for(visits: Sequence[Row], to_s: float) -> list[Row]:
    """Return the visits that arrived just then; if none did, those that were on their way, or lost just then."""
    lasted = [visit for visit in visits if end_s(visit) >= to_s - slack_s(to_s)]
    arrived = [visit for visit in lasted if visit["status"] == "ok" and end_s(visit) <= to_s + slack_s(to_s)]
    return arrived or lasted


def _spent_s(visits: Iterable[Row], from_s: float, to_s: float) -> dict[str, float]:
    """Return what a client spent on each phase within a window."""
    spent_s = dict.fromkeys(_MOVES, 0.0)
    for visit in visits:
        for phase, (start_s, stop_s) in zip(_MOVES, pairwise(_bounds_s(visit)), strict=True):
            spent_s[phase] += max(0.0, min(stop_s, to_s) - max(start_s, from_s))
    return spent_s


def _bounds_s(visit: Row) -> list[float]:
    """Return when a visit's download began, and when each of its phases ended."""
    return list(accumulate((visit[f"{phase}_s"] for phase in _MOVES), initial=visit["start_s"]))


def staleness_blame(run: Run) -> list[Blame]:
    """Return who held the staleness of each merge, in the order of merges; an amount counts merges."""
    times_s = merge_times_s(run)
    merged: dict[int, list[Row]] = defaultdict(list)
    for visit in run.visits.to_pylist():
        if visit["merge_index"] is not None:
            merged[visit["merge_index"]].append(visit)
    blames = []
    for index in sorted(merged):
        shares = [share for visit in merged[index] for share in _stale(visit, times_s)]
        task = min(visit["task_index"] for visit in merged[index])
        blames.append(Blame(task, index, sum(share.amount for share in shares), tuple(shares)))
    return blames


def _stale(visit: Row, times_s: dict[int, float]) -> list[Share]:
    """Return what an update's staleness came from: the phase in which each other merge fell."""
    missed: dict[str, int] = defaultdict(int)
    ends_s = _bounds_s(visit)[1:]
    for merge in range(visit["model_version"], visit["merge_index"]):
        place = bisect_left(ends_s, times_s[merge] - slack_s(times_s[merge])) if merge in times_s else len(ends_s)
        missed[PHASES[place]] += 1
    return [Share(visit["client_id"], visit["device"], phase, missed[phase]) for phase in PHASES if missed[phase]]


def totals(blames: Sequence[Blame], of: Literal["client", "device"]) -> list[Total]:
    """Return what each client or kind of device is to blame for over all, the greatest first, nobody's last.

    Parts are of all amounts together; they are 1 in sum. Nothing to blame gives an empty list.
    """
    everything = sum(share.amount for blame in blames for share in blame.shares)
    if not everything:
        return []
    found: dict[tuple[int | None, str | None], dict[str, float]] = {}
    for share in (share for blame in blames for share in blame.shares):
        key = (share.client_id if of == "client" else None, share.device)
        phases = found.setdefault(key, dict.fromkeys(PHASES, 0.0))
        phases[share.phase] += share.amount / everything
    listed = [Total(client_id, device, phases) for (client_id, device), phases in found.items()]
    return sorted(listed, key=lambda total: (total.device is None, -total.share, total.client_id or 0))
