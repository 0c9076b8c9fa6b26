"""One run that is struck: its driver, a process of its own, the nodes that it is on, and what is killed of them."""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# before Ray is imported: a lock for what is started here, and quiet
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".*")
os.environ.pop("RAY_ADDRESS", None)

from chaos_nodes import OF_TINY, Nodes
from chaos_tally import Blow, Tally, rounds_repeated, witnessed
from processes import SERVER, VISITING, Seen, alive, end, title, titled, wait_until_gone
from tiny import without_host

from fedknow_ray.experiment.run_checkpoints import latest_whole
from fedknow_ray.results.run import Run, read_table

#: What is done to the raylet of a node, or to the head.
ON_A_CLUSTER = {"worker_node": signal.SIGKILL, "raylet_hang": signal.SIGSTOP, "head": signal.SIGKILL}
#: No run here takes so long, whatever happens to it.
PATIENCE_S = 400.0
#: What belongs to a driver that was killed ends by itself within this time.
GRACE_S = 20.0


@dataclass(frozen=True)
class Setting:
    """What run is made, and where: *options* of `run`, *ways* in which `resume` may go on, *resources* of a node.

    A strike comes up to *moments_s* after a visit is first seen.
    """

    config: Path
    options: Sequence[str]
    ways: Sequence[Sequence[str]]
    on_a_cluster: bool
    resources: Mapping[str, float] = field(default_factory=lambda: OF_TINY)
    workers: int = 2
    moments_s: float = 1.5


class Disturbed:
    """One run, and what strikes it."""

    def __init__(self, setting: Setting, out: Path, rng: random.Random, tallies: Mapping[str, Tally]) -> None:
        self.setting, self.out, self.rng, self.tallies = setting, out, rng, tallies
        self.witness = out.with_suffix(".witness")
        self.witness.unlink(missing_ok=True)
        self.seen = Seen()
        # paths of sockets are short; everything that Ray writes is in here
        self.temporary = Path(tempfile.mkdtemp(prefix="fkc-", dir="/tmp"))
        self.nodes = self.cluster("c") if setting.on_a_cluster else None
        self.blows: list[Blow] = []
        self.kept: list[Any] = []
        self.faults: list[str] = []
        self.left_behind: list[str] = []
        self.outlived_a_node = 0
        self.driver = self.start("run", str(setting.config), "--out", str(out), *setting.options, *self.place())

    def cluster(self, name: str) -> Nodes:
        return Nodes(self.temporary / name, self.setting.workers, self.setting.resources)

    def place(self) -> list[str]:
        return [] if self.nodes is None else ["--address", self.nodes.address]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("chaos_driver.py")), *arguments, "--quiet"],
            stdout=subprocess.DEVNULL,
            stderr=(self.out.with_suffix(".stderr")).open("a"),
            text=True,
            start_new_session=True,
            env={**os.environ, "FKR_WITNESS": str(self.witness), "TMPDIR": str(self.temporary)},
        )

    def pids(self) -> set[int]:
        """What is there because of this run, the driver too."""
        return self.seen.now()

    def make(self, plan: Sequence[str]) -> None:
        """Strike as planned, as long as the run goes on, and see it to its end."""
        for kind in plan:
            if not self.strike(kind):
                break
            self.tallies[kind].kills += 1
            blow = self.blows[-1]
            if kind in ("driver", "head"):
                self.take_up(kind, blow)
            elif not self.wait_until_made_good(blow):
                break
        self.driver.wait(PATIENCE_S)
        if self.driver.returncode != 0:
            told = self.out.with_suffix(".stderr").read_text()[-2000:]
            self.faults.append(f"status {self.driver.returncode}: {told}")
        self.read_witness()

    def wait_for_a_visit(self) -> bool:
        """Wait for some moment while a client makes a visit; return whether the run goes on."""
        deadline_s, at_s = time.monotonic() + PATIENCE_S, None
        while self.driver.poll() is None:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"no visit began within {PATIENCE_S:.0f} s")
            if titled(VISITING, self.pids()):
                # the first visit seen is the beginning of a round, or of its visits made again: a while behind it
                at_s = at_s or time.monotonic() + self.rng.uniform(0.0, self.setting.moments_s)
                if time.monotonic() >= at_s:
                    return True
            time.sleep(0.02)
        return False

    def strike(self, kind: str) -> bool:
        """Kill a victim while a visit is in flight; return whether the run goes on so far."""
        # a strike that finds nobody is tried again at another moment
        while self.wait_for_a_visit():
            pids = self.pids()
            visiting = titled(VISITING, pids)
            if visiting and self.strike_now(kind, visiting, pids):
                return True
        return False

    def strike_now(self, kind: str, visiting: list[int], pids: set[int]) -> bool:
        at_s = time.monotonic()
        if kind == "client_actor":
            os.kill(self.rng.choice(visiting), signal.SIGKILL)
        elif kind == "server_actor":
            at_work, servers = SERVER + ".", titled(SERVER, pids)
            if not servers:
                return False
            if self.rng.random() < 0.5:
                # it is at work for milliseconds: strike right then
                until_s = at_s + 3.0
                while time.monotonic() < until_s and not title(servers[0]).startswith(at_work):
                    pass
                if not titled(VISITING, pids):
                    return False
            at_s = time.monotonic()
            self.tallies[kind].server_at_work += title(servers[0]).startswith(at_work)
            os.kill(servers[0], signal.SIGKILL)
        elif kind == "driver":
            # alone, or with all of its group, as when a terminal goes
            (os.killpg if self.rng.random() < 0.5 else os.kill)(self.driver.pid, signal.SIGKILL)
        elif kind == "head" and self.nodes is not None:
            self.nodes.lose_head()
        elif self.nodes is None or not self.nodes.lose_one_that_visits(self.rng, ON_A_CLUSTER[kind]):
            return False
        self.blows.append(Blow(kind, at_s))
        if self.nodes is not None and kind in ("worker_node", "raylet_hang"):
            self.nodes.join_one()
        return True

    def wait_until_made_good(self, blow: Blow) -> bool:
        """Wait until the run goes on as before, or a loss is clearly not missed."""
        deadline_s = blow.at_s + 60.0
        while self.driver.poll() is None and time.monotonic() < deadline_s:
            self.read_witness()
            if blow.seconds_until("visit", behind="made good") is not None:
                return True
            time.sleep(0.1)
        return self.driver.poll() is None

    def read_witness(self) -> None:
        """Deal what the witness has said to the kills, each up to the next one."""
        lines, moments_s = witnessed(self.witness), [*(blow.at_s for blow in self.blows), float("inf")]
        for blow, end_s in zip(self.blows, moments_s[1:], strict=True):
            blow.lines = [line for line in lines if blow.at_s <= line["at_s"] < end_s]

    def take_up(self, kind: str, blow: Blow) -> None:
        """Go on with a run whose driver is gone, in one of the ways in which it can be."""
        tally = self.tallies[kind]
        if kind == "head":
            try:
                self.driver.wait(180.0)
                tally.add("driver_ended", time.monotonic() - blow.at_s)
            except subprocess.TimeoutExpired:
                self.faults.append("the driver outlived its head by three minutes")
                self.driver.kill()
        self.driver.wait()
        if self.nodes is not None:
            self.nodes.close()
            self.nodes = None
        left = wait_until_gone(self.pids(), GRACE_S)
        tally.outlived_a_driver += [title(pid) for pid in sorted(left)]
        end(left)
        self.note_what_was_kept()
        on_new_nodes = kind == "head" and self.rng.random() < 0.5
        if on_new_nodes:
            self.nodes = self.cluster("d")
        way = [*self.setting.ways[0], *self.place()] if on_new_nodes else self.rng.choice(self.setting.ways)
        began_s = time.monotonic()
        self.driver = self.start("resume", str(self.out), *way)
        tally.resumed += 1
        tally.noticed += 1
        self.wait_for_its_first_visit(kind, blow, began_s)

    def wait_for_its_first_visit(self, kind: str, blow: Blow, began_s: float) -> None:
        while self.driver.poll() is None and time.monotonic() < began_s + PATIENCE_S:
            self.read_witness()
            if any(line["what"] == "visit" and line["at_s"] > began_s for line in blow.lines):
                break
            time.sleep(0.1)
        first = [line["at_s"] for line in blow.lines if line["what"] == "visit" and line["at_s"] > began_s]
        if first:
            self.tallies[kind].add("resume_to_first_visit", first[0] - began_s)

    def note_what_was_kept(self) -> None:
        """Remember the rows that the last checkpoint stands for: they are to keep the host seconds that they have."""
        latest = latest_whole(self.out, self.faults.append)
        rows = 0 if latest is None else latest.header.stored.tables["visits"][0]
        self.kept.append(read_table(self.out, "visits").slice(0, rows) if rows else None)

    def check_kept(self, run: Run, faults: list[str]) -> None:
        for rows, blow in zip(self.kept, (b for b in self.blows if b.kind in ("driver", "head")), strict=True):
            tally = self.tallies[blow.kind]
            if rows is None or run.visits.slice(0, len(rows)).equals(rows):
                tally.kept += 1
            else:
                same = without_host(rows).equals(without_host(run.visits.slice(0, len(rows))))
                faults.append(f"rows before a kill are others now{' in their host seconds' if same else ''}")
            tally.rounds_repeated.append(rounds_repeated(witnessed(self.witness), blow.at_s))

    def clear_up(self) -> None:
        """End what is there still, and count what should not be."""
        if self.driver.poll() is None:
            self.driver.kill()
            self.driver.wait()
        if self.nodes is not None:
            orphans = alive(self.nodes.of_lost_nodes)
            self.outlived_a_node += len(orphans)
            end(orphans)
            self.nodes.close()
        left = wait_until_gone(self.pids(), GRACE_S)
        self.left_behind += [f"process {title(pid)}" for pid in sorted(left)]
        end(left)
        for blow in self.blows:
            # nobody is there to clear up after a driver that is killed: the next one cannot know whose folder it is
            if blow.kind in ("driver", "head"):
                break
        else:
            # "c" and "d" are the clusters', and torch keeps a cache wherever temporary files are
            ignored = ("c", "d", "torchinductor_")
            folders = [path.name for path in self.temporary.iterdir() if not path.name.startswith(ignored)]
            self.left_behind += [f"folder {name}" for name in folders]
        shutil.rmtree(self.temporary, ignore_errors=True)
