"""What came of the kills of one kind: the counts, the seconds, and what went wrong."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Blow:
    """One kill, at a moment of `time.monotonic()`, with a visit in flight."""

    kind: str
    at_s: float
    #: What the witness has said by the next kill, or the end of the run.
    lines: list[dict[str, Any]] = field(default_factory=list)

    def seconds_until(self, what: str, *, last: bool = False, behind: str | None = None) -> float | None:
        """Seconds from the kill to the first (or last) line of a kind; those *behind* the last of another kind."""
        since_s = self.at_s
        if behind is not None:
            ends = [line["at_s"] for line in self.lines if line["what"] == behind]
            if not ends:
                return None
            since_s = ends[-1]
        found = [line["at_s"] for line in self.lines if line["what"] == what and line["at_s"] >= since_s]
        return None if not found else (found[-1] if last else found[0]) - self.at_s


@dataclass
class Tally:
    """*equal* of the *runs* ended with the bits and tables of the undisturbed one.

    *noticed* kills for which the driver has made something good, or went down itself; a dead actor that nobody asks any
    more is never missed. *left_behind* processes and folders that were there after a run. *kept* resumed runs whose
    rows from before the kill kept their host seconds.
    """

    kills: int = 0
    noticed: int = 0
    runs: int = 0
    equal: int = 0
    resumed: int = 0
    kept: int = 0
    left_behind: list[str] = field(default_factory=list)
    rolled_back: int = 0
    server_at_work: int = 0
    outlived_a_node: int = 0
    outlived_a_driver: list[str] = field(default_factory=list)
    rounds_repeated: list[int] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def add(self, what: str, seconds: float | None) -> None:
        if seconds is not None:
            self.seconds.setdefault(what, []).append(seconds)

    def count(self, blow: Blow) -> None:
        """Take down the seconds that a kill has cost a run whose driver lives."""
        detection = blow.seconds_until("noticed")
        self.noticed += detection is not None
        self.add("detection", detection)
        self.add("another_actor", blow.seconds_until("made good", last=True))
        self.add("next_visit", blow.seconds_until("visit", behind="made good"))

    def plain(self) -> dict[str, Any]:
        figures = {what: spread(all_of) for what, all_of in sorted(self.seconds.items())}
        counts = {k: v for k, v in vars(self).items() if k not in ("seconds", "rounds_repeated")}
        return {**counts, "most_rounds_repeated": max(self.rounds_repeated, default=0), "seconds": figures}


def spread(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "count": len(ordered),
        "median": round(statistics.median(ordered), 2),
        "max": round(ordered[-1], 2),
    }


def witnessed(path: Path) -> list[dict[str, Any]]:
    """The lines of a witness so far; the last may be half written when its driver is killed."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


def rounds_repeated(lines: Sequence[dict[str, Any]], at_s: float) -> int:
    """How many rounds had a visit before a moment and another after it: what a resumed run has made again."""
    visits = [line for line in lines if line["what"] == "visit"]
    before = {tuple(line["of"]) for line in visits if line["at_s"] < at_s}
    since = {tuple(line["of"]) for line in visits if line["at_s"] >= at_s}
    return len({of[2:] for of in before & since})
