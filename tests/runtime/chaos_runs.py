"""Runs of a few seconds that are disturbed, and what has come of it: each is compared with the run never disturbed.

A run whose driver or head is killed goes on by `resume`: in between on Ray, one client an actor and two in turns; the
last time, the one that comes to the end, also in one process.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from chaos_places import Driver, EmulatedCluster, Nowhere, Place
from chaos_victims import ENDS_THE_RUN, Hit, Scene, strike
from kin import Kin, parent, title
from test_arrival_backends import ARRIVALS
from tiny import TEXT

from fedknow_ray.experiment.run import execute
from fedknow_ray.experiment.run_checkpoints import latest_whole
from fedknow_ray.experiment.verify import compare_runs
from fedknow_ray.results.run import Run, load, read_table
from fedknow_ray.results.schema import HOST_EVENTS

#: Visits of some tenths of a second: 12 in rounds, 16 by FedBuff, 9 tasks that come by time.
WORKLOADS: dict[str, dict[str, Any]] = {
    "rounds": {"training.local_epochs": 24},
    "fedbuff": {
        "training.local_epochs": 24,
        "policy": {"name": "fedbuff", "buffer_size": 2, "concurrency": 3},
        "failures.probability": 0.1,
    },
    "by_time": {"training.local_epochs": 24, "policy": {"name": "fedasync", "concurrency": 3}},
}
#: An actor may be struck time and again before it has made one visit.
RECOVERY = {"recovery.losses_in_a_row": 12, "recovery.wait_for_node_s": 120}
#: How long the program may take, how long a driver without a head, and what is left of a run to end.
RUN_LIMIT_S, HEADLESS_LIMIT_S, GONE_LIMIT_S = 300.0, 90.0, 30.0
ACTORS = ("ray::ClientActor", "ray::ServerActor")
PACKED, LOCAL = ("--set", "placement.clients_per_actor=2"), ("--backend", "local")


@dataclass(slots=True)
class Disturbed:
    """What has come of one run: *lost_s* more host seconds than undisturbed; *left* the processes that it left behind.

    *rounds_again* for each `resume` how many of the recorded rounds were not in the checkpoint; *headless_s* how long
    drivers took to end without a head; *waits_s* what it took until each lost actor was there again.
    """

    workload: str
    hits: list[Hit] = field(default_factory=list)
    ways: list[str] = field(default_factory=list)
    problem: str | None = None
    wall_s: float = 0.0
    lost_s: float = 0.0
    rounds_again: list[int] = field(default_factory=list)
    headless_s: list[float] = field(default_factory=list)
    events: dict[str, int] = field(default_factory=dict)
    waits_s: list[float] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """Return it as values that JSON can hold."""
        return asdict(self)


class Workload:
    """One of the runs, in a folder: its config file, and what it is undisturbed, made in this process."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / "tiny.yaml"
        self.config.write_text(TEXT)
        self.settings = {**WORKLOADS[name], **RECOVERY}
        if name == "by_time":
            trace = folder / "arrivals.csv"
            trace.write_text(ARRIVALS)
            self.settings["task_arrival"] = {"trace": str(trace)}
        whole = folder / "whole"
        self.whole: Run = (
            load(whole)
            if (whole / "summary.json").exists()
            else execute(self.config, self.settings, backend="local", out=whole)
        )
        self.undisturbed_s: dict[type[Place], float] = {}

    def arguments(self, out: Path) -> list[str]:
        """Return what the program is told to make it."""
        sets = [part for key, value in self.settings.items() for part in ("--set", f"{key}={_flow(value)}")]
        return ["run", str(self.config), *sets, "--out", str(out)]


class Chaos:
    """Disturbs runs at one place, at moments that a seed decides."""

    def __init__(self, place: Place, seed: int) -> None:
        self._place, self._rng, self._kin = place, random.Random(seed), Kin()
        self._known = set(self._kin.look())

    def measure(self, workload: Workload, out: Path) -> None:
        """Make a run undisturbed at this place, to know how long it takes."""
        calm = self.disturb(workload, [], out)
        if calm.problem is not None:
            raise AssertionError(f"the undisturbed run {out}: {calm.problem}")
        workload.undisturbed_s[type(self._place)] = calm.wall_s

    def disturb(self, workload: Workload, kinds: Sequence[str], out: Path, last_way: Sequence[str] = ()) -> Disturbed:
        """Make a run and strike at it, kind by kind, as long as it runs; *last_way* the options of the last resume."""
        done, waiting = Disturbed(workload.name), list(kinds)
        arguments, standings, began_s = workload.arguments(out), list[Standing](), time.monotonic()
        while self._leg(arguments, out, waiting, done):
            standings.append(Standing.of(out))
            done.rounds_again.append(standings[-1].rounds_again)
            if done.hits[-1].kind == "head" and isinstance(self._place, EmulatedCluster):
                self._place.open_again()
            is_last = not ENDS_THE_RUN.intersection(waiting)
            way = last_way if is_last else PACKED * (len(standings) % 2)
            done.ways.append(" ".join(way) or "as before")
            arguments = ["resume", str(out), *way]
        done.wall_s = time.monotonic() - began_s
        done.lost_s = done.wall_s - workload.undisturbed_s.get(type(self._place), done.wall_s)
        done.problem = done.problem or _difference(workload.whole, out, standings)
        _tell_events(done, out)
        self._clean(done)
        return done

    def _leg(self, arguments: Sequence[str], out: Path, waiting: list[str], done: Disturbed) -> bool:
        """Have one driver make the run, and return whether it was struck so that the run was left.

        *waiting* loses the strikes that went home.
        """
        place = Nowhere() if "local" in arguments else self._place
        driver = Driver(place, self._kin, arguments, out.with_suffix(".log"))
        try:
            if self._strike_while_it_runs(driver, waiting, done):
                return True
            if driver.runs:
                done.problem = f"still at work after {RUN_LIMIT_S:.0f} s"
            elif driver.process.returncode != 0:
                done.problem = f"exit status {driver.process.returncode}"
            return False
        finally:
            if driver.runs:
                driver.kill()

    def _strike_while_it_runs(self, driver: Driver, waiting: list[str], done: Disturbed) -> bool:
        scene, began_s = Scene(self._place, driver, self._kin, self._rng), time.monotonic()
        next_s = began_s + self._pause_s()
        while driver.runs and time.monotonic() < began_s + RUN_LIMIT_S:
            time.sleep(0.02)
            if not waiting or time.monotonic() < next_s or (hit := strike(waiting[0], scene)) is None:
                continue
            done.hits.append(hit)
            if waiting.pop(0) in ENDS_THE_RUN:
                if hit.kind == "head":
                    done.headless_s.append(_wait_for_end(driver))
                return True
            next_s = time.monotonic() + self._pause_s()
        return False

    def _pause_s(self) -> float:
        return self._rng.uniform(0.0, 2.5)

    def _clean(self, done: Disturbed) -> None:
        """Wait until nothing of the run is there any more, and end what stays: by its own ids."""
        if isinstance(self._place, EmulatedCluster):
            self._place.bury()
        end_s = time.monotonic() + GONE_LIMIT_S
        while (left := self._left()) and time.monotonic() < end_s:
            time.sleep(0.2)
        done.left = [f"{pid} {title(pid)}" for pid in left]
        self._kin.end(left)

    def _left(self) -> list[int]:
        """Return the processes that a run has left; the cluster's own, and its workers that do nothing, may be."""
        cluster = self._place if isinstance(self._place, EmulatedCluster) else None
        own = cluster.pids() if cluster is not None else frozenset[int]()
        others = [pid for pid in self._kin.look() if pid not in self._known and pid not in own]
        return [pid for pid in others if parent(pid) not in own or title(pid).startswith(ACTORS)]


def _wait_for_end(driver: Driver) -> float:
    began_s = time.monotonic()
    while driver.runs and time.monotonic() < began_s + HEADLESS_LIMIT_S:
        time.sleep(0.05)
    return time.monotonic() - began_s


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a run had come when it was left: what it had recorded, and how much of it was saved.

    *host_wall_s* those of the saved visits.
    """

    rounds_again: int
    host_wall_s: list[float]

    @classmethod
    def of(cls, out: Path) -> Standing:
        """Read it from its directory."""
        refused: list[str] = []
        latest = latest_whole(out, refused.append)
        if refused:
            raise AssertionError(f"broken checkpoints: {refused}")
        rows = {} if latest is None else {name: rows for name, (rows, _) in latest.header.stored.tables.items()}
        recorded = len(read_table(out, "rounds")) if (out / "rounds.parquet").exists() else 0
        visits = read_table(out, "visits")["host_wall_s"].to_pylist()[: rows["visits"]] if rows else []
        return cls(recorded - rows.get("rounds", 0), visits)


def _difference(whole: Run, out: Path, standings: Sequence[Standing]) -> str | None:
    """Return in what a run is another than the undisturbed one; None if it is the same."""
    again = load(out)
    verdict = compare_runs(whole, again)
    if verdict.mismatch is not None:
        return str(verdict.mismatch)
    walls = again.visits["host_wall_s"].to_pylist()
    for standing in standings:
        if walls[: len(standing.host_wall_s)] != standing.host_wall_s:
            return "visits that were saved were made again"
        if standing.rounds_again > 1:
            return f"{standing.rounds_again} rounds were made again"
    return None


def _tell_events(done: Disturbed, out: Path) -> None:
    rows = read_table(out, "events").to_pylist() if (out / "events.parquet").exists() else []
    details = [json.loads(row["detail"]) for row in rows if row["kind"] == "actor_lost"]
    lost = [f"lost {detail['what']}" for detail in details]
    others = [row["kind"] for row in rows if row["kind"] in HOST_EVENTS - {"packed", "actor_lost"}]
    done.events = dict(Counter([*lost, *others]))
    done.waits_s = [detail["wait_s"] for detail in details]


def _flow(value: Any) -> str:
    """Return a value as YAML that stands on one line."""
    return json.dumps(value)
