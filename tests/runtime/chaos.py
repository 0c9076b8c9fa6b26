"""Kills what a run is made of while it makes visits, and compares the bits with the run that nothing happened to.

    python tests/runtime/chaos.py --kind client_actor --kills 20 --seed 1 --out /tmp/chaos [--json]

A victim is killed only while a visit is in flight: a client actor that makes one; the server's actor, the driver or the
head while any client does; a worker node that hosts one that does. Moments and victims are drawn from the seed. The
driver is a process of its own, `fedknow-ray run`, and `fedknow-ray resume` where it is gone. Several kinds, with commas
between, are struck in turn in the same runs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".*")
os.environ.pop("RAY_ADDRESS", None)

from chaos_nodes import Nodes
from chaos_tally import Blow, Tally, rounds_repeated, witnessed
from processes import SERVER, VISITING, adopt_orphans, descendants, end, title, titled, wait_until_gone
from tiny import without_host, write_config

from fedknow_ray.experiment.run import execute
from fedknow_ray.experiment.run_checkpoints import latest_whole
from fedknow_ray.experiment.verify import compare_runs
from fedknow_ray.results.run import Run, load, read_table

KINDS = ("client_actor", "server_actor", "worker_node", "raylet_hang", "driver", "head")
ON_A_CLUSTER = {"worker_node": signal.SIGKILL, "raylet_hang": signal.SIGSTOP, "head": signal.SIGKILL}
COMMON = ("training.rounds_per_task=4", "training.local_epochs=10", "recovery.losses_in_a_row=9")
#: What tests take, to be through in less than a minute.
SMALL = ("training.local_epochs=8", "recovery.losses_in_a_row=9")
CASES: dict[str, tuple[str, ...]] = {
    "rounds": (),
    "buffered": ("policy={name: fedbuff, buffer_size: 2, concurrency: 3}",),
    "by time": ("task_arrival={every_s: 5.0}",),
}
PACKED = ("--set=placement.clients_per_actor=2",)
WAYS: tuple[tuple[str, ...], ...] = (("--set=placement.clients_per_actor=1",), PACKED, ("--backend", "local"))
#: No run here takes so long, whatever happens to it.
PATIENCE_S = 400.0
#: What belongs to a driver that was killed ends by itself within this time.
GRACE_S = 20.0


class Chaos:
    """Makes runs in a folder and strikes what they are made of until there were so many kills of each kind."""

    def __init__(self, kinds: Sequence[str], seed: int, folder: Path, *, small: bool = False) -> None:
        adopt_orphans()
        self.small, self.common = small, SMALL if small else COMMON
        self.kinds, self.folder, self.rng = tuple(kinds), folder, random.Random(f"{kinds} {seed}")
        self.tallies = {kind: Tally() for kind in kinds}
        folder.mkdir(parents=True, exist_ok=True)
        self.config = write_config(folder)
        self.whole: dict[str, Run] = {}
        self.runs = 0

    def go(self, kills: int, in_a_run: int) -> None:
        """Make runs until so many kills of each kind have hit, *in_a_run* at most in one."""
        while wanted := [kind for kind in self.kinds if self.tallies[kind].kills < kills]:
            case = list(CASES)[self.runs % len(CASES)]
            if case not in self.whole:
                out = self.fresh(f"undisturbed-{case.replace(' ', '-')}")
                self.whole[case] = execute(self.config, [*self.common, *CASES[case]], backend="local", out=out)
            plan = [kind for kind in wanted for _ in range(min(in_a_run, kills - self.tallies[kind].kills))]
            if not self.small:
                self.rng.shuffle(plan)
            # a head is lost once in a run, as the last thing: what is taken up may be on no cluster
            plan = [kind for kind in plan if kind != "head"] + ["head"] * ("head" in plan)
            one = Disturbed(self, case, self.fresh(f"{'-'.join(self.kinds)}-{self.runs}"))
            try:
                one.make(plan)
            finally:
                one.clear_up()
            self.runs += 1
            self.judge(one)
            if not one.blows and one.faults:
                raise SystemExit(f"a run failed before it was struck: {one.faults}")

    def fresh(self, name: str) -> Path:
        shutil.rmtree(self.folder / name, ignore_errors=True)
        return self.folder / name

    def judge(self, one: Disturbed) -> None:
        """Hold a disturbed run against the undisturbed one."""
        faults, whole, kinds = list(one.faults), self.whole[one.case], {blow.kind for blow in one.blows}
        run = None
        try:
            run = load(one.out)
            found = compare_runs(whole, run).mismatch
            faults += [] if found is None else [str(found)]
            if run.summary is None or run.summary["parameters_sha256"] != (whole.summary or {})["parameters_sha256"]:
                faults.append("not finished" if run.summary is None else "another parameters_sha256")
            one.check_kept(run, faults)
        except Exception as error:
            faults.append(repr(error))
        events = [] if run is None else [row["kind"] for row in run.events.to_pylist()]
        for kind in kinds or set(self.kinds[:1]):
            tally = self.tallies[kind]
            tally.runs += 1
            tally.equal += not faults
            tally.left_behind += one.left_behind
            tally.rolled_back += events.count("rolled_back")
            tally.faults += [f"{one.out.name} ({one.case}): {fault}" for fault in faults]
        for blow in one.blows:
            if blow.kind not in ("driver", "head"):
                self.tallies[blow.kind].count(blow)
        progress = {kind: f"{tally.kills} kills, {tally.equal}/{tally.runs}" for kind, tally in self.tallies.items()}
        print(time.strftime("%H:%M:%S"), one.out.name, one.case, progress, faults, file=sys.stderr, flush=True)


class Disturbed:
    """One run, and what strikes it."""

    def __init__(self, chaos: Chaos, case: str, out: Path) -> None:
        self.rng, self.tallies, self.config = chaos.rng, chaos.tallies, chaos.config
        self.case, self.out, self.witness = case, out, out.with_suffix(".witness")
        self.witness.unlink(missing_ok=True)
        self.before = descendants(os.getpid())
        # paths of sockets are short; everything that Ray writes is in here
        self.temporary = Path(tempfile.mkdtemp(prefix="fkc-", dir="/tmp"))
        on_a_cluster = any(kind in ON_A_CLUSTER for kind in chaos.kinds)
        self.nodes = Nodes(self.temporary / "c") if on_a_cluster else None
        self.blows: list[Blow] = []
        self.kept: list[Any] = []
        self.faults: list[str] = []
        self.left_behind = 0
        self.ways = WAYS[-1:] if chaos.small else WAYS
        sets = [f"--set={each}" for each in (*chaos.common, *CASES[case])]
        packed = PACKED if chaos.small or self.nodes is not None else self.rng.choice([PACKED, PACKED, ()])
        self.driver = self.start("run", str(self.config), "--out", str(out), *sets, *packed, *self.place())

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
        return descendants(os.getpid()) - self.before

    def make(self, plan: Sequence[str]) -> None:
        """Strike as planned, as long as the run goes on, and see it to its end."""
        for kind in plan:
            if not self.wait_for_a_visit() or not self.strike(kind):
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
                at_s = at_s or time.monotonic() + self.rng.uniform(0.0, 1.5)
                if time.monotonic() >= at_s:
                    return True
            time.sleep(0.02)
        return False

    def strike(self, kind: str) -> bool:
        """Kill a victim while a visit is in flight; return whether the run goes on so far."""
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
        if self.nodes is None:
            left = wait_until_gone(self.pids(), GRACE_S)
            tally.outlived_a_driver += [title(pid) for pid in sorted(left)]
            end(left)
        else:
            self.nodes.close()
            self.nodes = None
        self.note_what_was_kept()
        on_new_nodes = kind == "head" and self.rng.random() < 0.5
        if on_new_nodes:
            self.nodes = Nodes(self.temporary / "d")
        way = (*PACKED, *self.place()) if on_new_nodes else self.rng.choice(self.ways)
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
            self.nodes.close()
        left = wait_until_gone(self.pids(), GRACE_S)
        self.left_behind += len(left)
        for pid in left:
            self.faults.append(f"process left behind: {title(pid)}")
        end(left)
        for blow in self.blows:
            # nobody is there to clear up after a driver that is killed: the next one cannot know whose folder it is
            if blow.kind in ("driver", "head"):
                break
        else:
            folders = [path.name for path in self.temporary.iterdir() if path.name not in ("c", "d")]
            self.left_behind += len(folders)
            self.faults += [f"folder left behind: {name}" for name in folders]
        shutil.rmtree(self.temporary, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--kind", required=True, help=f"one or more of {', '.join(KINDS)}")
    parser.add_argument("--kills", type=int, default=20, help="of each kind")
    parser.add_argument("--in-a-run", type=int, default=4, help="kills of each kind in one run, at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true", help="shorter runs; kills in the order of --kind")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    kinds = options.kind.split(",")
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"no such kind: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    began_s = time.monotonic()
    chaos = Chaos(kinds, options.seed, options.out, small=options.small)
    chaos.go(options.kills, options.in_a_run)
    found = {kind: tally.plain() for kind, tally in chaos.tallies.items()}
    shown = {"seed": options.seed, "minutes": round((time.monotonic() - began_s) / 60, 1), "kinds": found}
    print(json.dumps(shown, indent=None if options.json else 2))
    return int(any(each["equal"] != each["runs"] or each["left_behind"] for each in found.values()))


if __name__ == "__main__":
    sys.exit(main())
