"""What a failure costs a run of 20 clients: seconds and rounds, and how they divide.

    python tests/runtime/recovery_times.py --out DIR [--kinds client_actor,server_actor,...] [--json]

Each kind strikes one run in the middle of a round, on the kind of Ray where it can: client and server actors and the
driver on a Ray of the run's own, a node and the head on a cluster in this process. The undisturbed run is made on the
same kind of Ray, right before.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from chaos import KINDS
from chaos_run import Disturbed, Setting
from chaos_tally import Blow, Tally, rounds_repeated, witnessed
from processes import VISITING, titled

from fedknow_ray.results.run import load

OWN_RAY, ON_A_CLUSTER = ("client_actor", "server_actor", "driver"), ("worker_node", "raylet_hang", "head")
TEXT = """\
seed: 3
scenario:
  {dataset: digits, tasks: 2, classes_per_task: 2, clients: 20, samples_per_client: 14,
   partition: {name: shards, shards_per_client: 2}}
method: {name: fedknow}
training: {rounds_per_task: 3, client_fraction: 0.5, local_epochs: EPOCHS, batch_size: 8}
placement: {clients_per_actor: 5}
fleet: [{device: jetson-nano, count: 10}, {device: raspberry-pi-4-4gb, count: 10}]
"""
RESOURCES = {"device:jetson-nano": 10.0, "device:raspberry-pi-4-4gb": 10.0}


class Timed(Disturbed):
    """One run of 20 clients, struck in the middle of one round, or not at all."""

    def __init__(self, out: Path, config: Path, kind: str | None, *, on_a_cluster: bool) -> None:
        self.kind = kind
        setting = Setting(config, (), [()], on_a_cluster, RESOURCES)
        super().__init__(setting, out, random.Random(1), {each: Tally() for each in KINDS})

    def saved(self) -> list[tuple[list[int], float]]:
        """The rounds that are saved, and when; those made again have the later moment."""
        return [(line["of"], line["at_s"]) for line in witnessed(self.witness) if line["what"] == "saved"]

    def wait_for_its_middle(self) -> None:
        """Wait until the struck round is half over, by the length of the one before it."""
        while not (done := self.saved()):
            if self.driver.poll() is not None:
                raise RuntimeError(self.out.with_suffix(".stderr").read_text()[-2000:])
            time.sleep(0.05)
        started = next(line["at_s"] for line in witnessed(self.witness) if line["what"] == "started")
        time.sleep((done[0][1] - started) / 2)
        while not titled(VISITING, self.pids()):
            time.sleep(0.01)

    def go(self) -> dict[str, Any]:
        """Make the run and return its times."""
        if self.kind is not None:
            self.wait_for_its_middle()
            while not self.strike(self.kind):
                time.sleep(0.05)
            if self.kind in ("driver", "head"):
                self.take_up(self.kind, self.blows[0])
        self.driver.wait(1200.0)
        self.read_witness()
        return {} if self.kind is None else self.figures(self.blows[0])

    def figures(self, blow: Blow) -> dict[str, Any]:
        lines = witnessed(self.witness)
        lost = [json.loads(row["detail"]) for row in self.events() if row["kind"] == "actor_lost"]
        return {
            "detection_s": blow.seconds_until("noticed"),
            "actor_ready_s": blow.seconds_until("made good", last=True),
            "actors": len(lost),
            "visits_again": sum(each["visits_again"] for each in lost),
            "rolled_back": sum(row["kind"] == "rolled_back" for row in self.events()),
            "first_visit_s": first_visit(lines, blow.at_s, "made good", "started"),
            "rounds_repeated": rounds_repeated(lines, blow.at_s),
            **{what: values[0] for what, values in self.tallies[blow.kind].seconds.items()},
        }

    def events(self) -> Sequence[dict[str, Any]]:
        return list(load(self.out).events.to_pylist())

    def whole_s(self) -> float:
        """Seconds from when the actors were first ready to the last saved round."""
        lines = witnessed(self.witness)
        began_s: float = next(line["at_s"] for line in lines if line["what"] == "started")
        return self.saved()[-1][1] - began_s


def first_visit(lines: Sequence[dict[str, Any]], at_s: float, *behind: str) -> float | None:
    """Seconds from a moment to the first visit behind the last line of some kinds since."""
    marks = [line["at_s"] for line in lines if line["what"] in behind and line["at_s"] > at_s]
    visits = [line["at_s"] for line in lines if line["what"] == "visit" and marks and line["at_s"] >= marks[-1]]
    return visits[0] - at_s if visits else None


def round_lengths(one: Timed) -> list[float]:
    moments = [at_s for _, at_s in one.saved()]
    return [later - earlier for earlier, later in pairwise(moments)]


def measure(folder: Path, kinds: Sequence[str], epochs: int) -> dict[str, Any]:
    config = folder / "twenty.yaml"
    config.write_text(TEXT.replace("EPOCHS", str(epochs)))
    found: dict[str, Any] = {"load_average": os.getloadavg()[0]}
    for own, on_a_cluster in ((OWN_RAY, False), (ON_A_CLUSTER, True)):
        chosen = [kind for kind in own if kind in kinds]
        whole, digest = 0.0, None
        for kind in [None, *chosen] if chosen else []:
            name = kind or ("undisturbed_cluster" if on_a_cluster else "undisturbed_own")
            one = Timed(folder / name, config, kind, on_a_cluster=on_a_cluster)
            try:
                figures = one.go()
            finally:
                one.clear_up()
            run = load(folder / name)
            assert run.summary is not None, one.out.with_suffix(".stderr").read_text()[-2000:]
            lengths = round_lengths(one)
            figures |= {"whole_s": one.whole_s(), "load_average": os.getloadavg()[0]}
            if kind is None:
                whole, digest = figures["whole_s"], run.summary["parameters_sha256"]
                figures["round_s"] = statistics.median(lengths)
            else:
                figures["delay_s"] = figures["whole_s"] - whole
                figures["same_bits"] = run.summary["parameters_sha256"] == digest
            found[name] = {k: round(v, 2) if isinstance(v, float) else v for k, v in figures.items()}
            print(name, found[name], one.faults, one.left_behind, file=sys.stderr, flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--kinds", default=",".join((*OWN_RAY, *ON_A_CLUSTER)))
    parser.add_argument("--epochs", type=int, default=120, help="of a visit: how long rounds are")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found = measure(options.out, options.kinds.split(","), options.epochs)
    print(json.dumps(found, indent=None if options.json else 2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
