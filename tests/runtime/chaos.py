"""Kills what a run is made of while it makes visits, and compares the bits with the run that nothing happened to.

    python tests/runtime/chaos.py --kind client_actor --kills 20 --seed 1 --out /tmp/chaos [--json]

A victim is killed only while a visit is in flight: a client actor that makes one; the server's actor, the driver or the
head while any client does; a worker node that hosts one that does. Moments and victims are drawn from the seed. The
driver is a process of its own, `fedknow-ray run`, and `fedknow-ray resume` where it is gone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".*")
os.environ.pop("RAY_ADDRESS", None)

from processes import SERVER, VISITING, alive, descendants, end, titled
from tiny import write_config

from fedknow_ray.experiment.run import execute
from fedknow_ray.experiment.verify import compare_runs
from fedknow_ray.results.run import Run, load

KINDS = ("client_actor", "server_actor", "worker_node", "raylet_hang", "driver", "head")
ON_A_CLUSTER = ("worker_node", "raylet_hang", "head")
COMMON = ("training.local_epochs=16", "recovery.losses_in_a_row=9")
CASES: dict[str, tuple[str, ...]] = {
    "rounds": (),
    "buffered": ("policy={name: fedbuff, buffer_size: 2, concurrency: 3}",),
    "by time": ("task_arrival={every_s: 5.0}",),
}
HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}
#: No run here takes so long, whatever happens to it.
PATIENCE_S = 300.0


@dataclass
class Tally:
    """What came of the kills: *equal* of the *runs* ended with the bits of the undisturbed one."""

    kind: str
    seed: int
    kills: int = 0
    runs: int = 0
    equal: int = 0
    resumed: int = 0
    left_behind: int = 0
    lost_s: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        lost = sorted(self.lost_s)
        return {
            "kind": self.kind,
            "seed": self.seed,
            "kills": self.kills,
            "runs": self.runs,
            "equal": self.equal,
            "resumed": self.resumed,
            "left_behind": self.left_behind,
            "median_wait_s": round(statistics.median(lost), 2) if lost else None,
            "longest_wait_s": round(lost[-1], 2) if lost else None,
            "faults": self.faults,
        }


class Nodes:
    """A cluster in this process: a head with one processor, and worker nodes with room for all clients each."""

    def __init__(self, workers: int = 2) -> None:
        from ray.cluster_utils import Cluster

        size = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
        self._cluster: Any = Cluster(
            initialize_head=True,
            head_node_args={"include_dashboard": False, "_system_config": HEALTH_CHECKS, **size},
        )
        self._size = size
        self._workers = [self._add() for _ in range(workers)]

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def _add(self) -> Any:
        resources = {"device:jetson-nano": 4, "device:raspberry-pi-4-4gb": 4}
        return self._cluster.add_node(resources=resources, **self._size)

    @staticmethod
    def raylet(node: Any) -> int:
        return int(node.all_processes["raylet"][0].process.pid)

    def pids(self) -> set[int]:
        return descendants(os.getpid())

    def lose_one_that_visits(self, rng: random.Random, how: signal.Signals) -> bool:
        """Take a node down whose clients make a visit, and let another join."""
        hosts = [node for node in self._workers if titled(VISITING, descendants(self.raylet(node)))]
        if not hosts:
            return False
        node = rng.choice(hosts)
        os.kill(self.raylet(node), how)
        self._workers.remove(node)
        self._cluster.worker_nodes.discard(node)
        self._workers.append(self._add())
        return True

    def lose_head(self) -> None:
        head = self._cluster.head_node
        for name in ("gcs_server", "raylet"):
            os.kill(int(head.all_processes[name][0].process.pid), signal.SIGKILL)

    def close(self) -> None:
        everything = self.pids()
        with suppress(Exception):
            self._cluster.shutdown()
        end(everything)


def command(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fedknow_ray", *arguments, "--quiet"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_a_visit(driver: subprocess.Popen[str], pids: Callable[[], set[int]]) -> None:
    """Wait until a client makes a visit, or the driver has ended."""
    deadline_s = time.monotonic() + PATIENCE_S
    while driver.poll() is None and not titled(VISITING, pids()):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"no visit began within {PATIENCE_S:.0f} s")
        time.sleep(0.02)


def pause(driver: subprocess.Popen[str], seconds: float) -> None:
    with suppress(subprocess.TimeoutExpired):
        driver.wait(seconds)


class Chaos:
    """Makes runs in a folder and kills what they are made of until there were so many kills."""

    def __init__(self, kind: str, seed: int, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.rng, self.tally = random.Random(f"{kind} {seed}"), Tally(kind, seed)
        folder.mkdir(parents=True, exist_ok=True)
        self.config = write_config(folder)
        self.cases = list(CASES)
        self.whole: dict[str, Run] = {}

    def undisturbed(self, case: str) -> Run:
        if case not in self.whole:
            out = self.folder / f"undisturbed-{case.replace(' ', '-')}"
            shutil.rmtree(out, ignore_errors=True)
            self.whole[case] = execute(self.config, [*COMMON, *CASES[case]], backend="local", out=out)
        return self.whole[case]

    def go(self, kills: int, at_most: int = 3) -> Tally:
        """Make runs until so many kills have hit; *at_most* so many in one run."""
        while self.tally.kills < kills:
            case = self.cases[self.tally.runs % len(self.cases)]
            self.undisturbed(case)
            out = self.folder / f"{self.kind}-{self.tally.runs}"
            shutil.rmtree(out, ignore_errors=True)
            wanted = min(at_most, kills - self.tally.kills)
            with self.nodes() as nodes:
                self.disturb(case, out, wanted, nodes)
            self.judge(case, out)
        return self.tally

    @contextmanager
    def nodes(self) -> Iterator[Nodes | None]:
        if self.kind not in ON_A_CLUSTER:
            yield None
            return
        nodes = Nodes()
        try:
            yield nodes
        finally:
            nodes.close()

    def disturb(self, case: str, out: Path, wanted: int, nodes: Nodes | None) -> None:
        """Make one run with some kills in it."""
        sets = [f"--set={each}" for each in (*COMMON, *CASES[case])]
        place = [] if nodes is None else ["--address", nodes.address]
        packed = self.rng.choice([[], ["--set=placement.clients_per_actor=2"]])
        driver = command("run", str(self.config), "--out", str(out), *place, *sets, *packed)
        seen: set[int] = set()
        try:
            while wanted and driver.poll() is None:
                wait_for_a_visit(driver, partial(self.pids_of, driver, nodes))
                pause(driver, self.rng.uniform(0.0, 2.0))
                visiting = titled(VISITING, self.pids_of(driver, nodes))
                if not visiting:
                    continue
                seen |= self.pids_of(driver, nodes)
                if not self.strike(driver, nodes, visiting):
                    continue
                self.tally.kills += 1
                wanted -= 1
                if self.kind in ("driver", "head"):
                    driver, nodes = self.take_up(driver, out, nodes, seen)
                    # a head is lost once a run: what is taken up has a Ray of its own
                    wanted = 0 if self.kind == "head" else wanted
                else:
                    # another actor takes seconds to start, and is not to be killed before it has done anything
                    pause(driver, self.rng.uniform(4.0, 9.0))
            _, told = driver.communicate(timeout=PATIENCE_S)
            if driver.returncode != 0:
                self.tally.faults.append(f"{out.name} ({case}): status {driver.returncode}: {told[-2000:]}")
        finally:
            mine = {driver.pid, *descendants(driver.pid)} if driver.poll() is None else set()
            end(mine)
        if nodes is None:
            left = alive(seen - {os.getpid()})
            self.tally.left_behind += len(left)
            end(left)

    def pids_of(self, driver: subprocess.Popen[str], nodes: Nodes | None) -> set[int]:
        return descendants(driver.pid) if nodes is None else nodes.pids()

    def strike(self, driver: subprocess.Popen[str], nodes: Nodes | None, visiting: list[int]) -> bool:
        """Kill a victim; return whether there was one."""
        if self.kind == "client_actor":
            os.kill(self.rng.choice(visiting), signal.SIGKILL)
        elif self.kind == "server_actor":
            servers = titled(SERVER, self.pids_of(driver, nodes))
            if not servers:
                return False
            os.kill(servers[0], signal.SIGKILL)
        elif self.kind == "driver":
            os.kill(driver.pid, signal.SIGKILL)
        elif nodes is not None and self.kind == "head":
            nodes.lose_head()
        elif nodes is not None:
            how = signal.SIGKILL if self.kind == "worker_node" else signal.SIGSTOP
            return nodes.lose_one_that_visits(self.rng, how)
        return True

    def take_up(
        self, driver: subprocess.Popen[str], out: Path, nodes: Nodes | None, seen: set[int]
    ) -> tuple[subprocess.Popen[str], Nodes | None]:
        """Go on with a run whose driver is gone, in one of the ways in which it can be."""
        if self.kind == "head":
            pause(driver, 90.0)
        end({driver.pid, *descendants(driver.pid)})
        driver.communicate()
        if nodes is None:
            # Ray ends what belongs to a driver that is gone, within seconds
            deadline_s = time.monotonic() + 20.0
            while alive(seen) and time.monotonic() < deadline_s:
                time.sleep(0.1)
        way = self.rng.choice([["--set=placement.clients_per_actor=2"], [], ["--backend", "local"]])
        self.tally.resumed += 1
        return command("resume", str(out), *way), None

    def judge(self, case: str, out: Path) -> None:
        """Hold a disturbed run against the undisturbed one."""
        self.tally.runs += 1
        try:
            run = load(out)
            found = compare_runs(self.whole[case], run).mismatch
            if run.summary is None:
                self.tally.faults.append(f"{out.name} ({case}): not finished")
            elif found is not None:
                self.tally.faults.append(f"{out.name} ({case}): {found}")
            else:
                self.tally.equal += 1
        except Exception as error:
            self.tally.faults.append(f"{out.name} ({case}): {error!r}")
            return
        for row in run.events.to_pylist():
            if row["kind"] == "actor_lost":
                self.tally.lost_s.append(json.loads(row["detail"])["wait_s"])


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    began_s = time.monotonic()
    tally = Chaos(options.kind, options.seed, options.out).go(options.kills).plain()
    tally["minutes"] = round((time.monotonic() - began_s) / 60, 1)
    print(json.dumps(tally, indent=None if options.json else 2))
    return int(tally["equal"] != tally["runs"] or tally["left_behind"] > 0)


if __name__ == "__main__":
    sys.exit(main())
