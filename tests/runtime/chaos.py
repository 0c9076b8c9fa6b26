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
import random
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from chaos_run import ON_A_CLUSTER, Disturbed, Setting
from chaos_tally import Tally
from tiny import write_config

from fedknow_ray.experiment.run import execute
from fedknow_ray.experiment.verify import compare_runs
from fedknow_ray.results.run import Run, load

KINDS = ("client_actor", "server_actor", "worker_node", "raylet_hang", "driver", "head")
COMMON = ("training.rounds_per_task=4", "training.local_epochs=10", "recovery.losses_in_a_row=9")
#: What tests take, to be through in less than a minute.
SMALL = ("training.local_epochs=8", "recovery.losses_in_a_row=9")
CASES: dict[str, tuple[str, ...]] = {
    "rounds": (),
    "buffered": ("policy={name: fedbuff, buffer_size: 2, concurrency: 3}",),
    "by time": ("task_arrival={every_s: 5.0}",),
}
PACKED = ("--set=placement.clients_per_actor=2",)
WAYS: tuple[tuple[str, ...], ...] = (PACKED, ("--set=placement.clients_per_actor=1",), ("--backend", "local"))


class Chaos:
    """Makes runs in a folder and strikes what they are made of until there were so many kills of each kind."""

    def __init__(self, kinds: Sequence[str], seed: int, folder: Path, *, small: bool = False) -> None:
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
            out = self.fresh(f"{'-'.join(self.kinds)}-{self.runs}")
            one = Disturbed(self.setting(case), out, self.rng, self.tallies)
            try:
                one.make(plan)
            finally:
                one.clear_up()
            self.runs += 1
            self.judge(one, case)
            if not one.blows and one.faults:
                raise SystemExit(f"a run failed before it was struck: {one.faults}")

    def setting(self, case: str) -> Setting:
        on_a_cluster = any(kind in ON_A_CLUSTER for kind in self.kinds)
        packed = PACKED if self.small or on_a_cluster else self.rng.choice([PACKED, PACKED, ()])
        options = [*(f"--set={each}" for each in (*self.common, *CASES[case])), *packed]
        return Setting(
            self.config, options, WAYS[-1:] if self.small else WAYS, on_a_cluster, moments_s=0.3 if self.small else 1.5
        )

    def fresh(self, name: str) -> Path:
        shutil.rmtree(self.folder / name, ignore_errors=True)
        return self.folder / name

    def judge(self, one: Disturbed, case: str) -> None:
        """Hold a disturbed run against the undisturbed one."""
        faults, whole, kinds = list(one.faults), self.whole[case], {blow.kind for blow in one.blows}
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
            tally.outlived_a_node += one.outlived_a_node
            tally.rolled_back += events.count("rolled_back")
            tally.faults += [f"{one.out.name} ({case}): {fault}" for fault in faults]
        for blow in one.blows:
            if blow.kind not in ("driver", "head"):
                self.tallies[blow.kind].count(blow)
        progress = {kind: f"{tally.kills} kills, {tally.equal}/{tally.runs}" for kind, tally in self.tallies.items()}
        print(
            time.strftime("%H:%M:%S"),
            one.out.name,
            case,
            progress,
            faults,
            one.left_behind,
            file=sys.stderr,
            flush=True,
        )


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
