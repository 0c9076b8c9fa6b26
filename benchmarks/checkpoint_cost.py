"""What saving a run after each round takes, against the same run that is not saved: host seconds a round, in turn.

    python benchmarks/checkpoint_cost.py --data FOLDER --out DIR [--pairs 3] [--backend ray|local] [--json]

FOLDER holds cifar100-*.parquet. The whole cnn6, 20 clients, 8 of them a round, 2 tasks of 3 rounds: states are 10 MB
and more, as in the paper's runs; the visits are short (one epoch of 40 images), so the share of a round that is told
is an upper bound, and the seconds are what matters.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

from fedknow_ray.experiment.run import execute
from fedknow_ray.experiment.watching import Unwatched
from fedknow_ray.federation.standing import Progress
from fedknow_ray.runtime.timing import now_s

TASKS, ROUNDS = 2, 3
CONFIG = """\
seed: 3
scenario:
  {{dataset: cifar100, data_root: {data}, tasks: {tasks}, classes_per_task: 5, clients: 20, samples_per_client: 40,
   partition: {{name: shards, shards_per_client: 3}}}}
model: {{name: cnn6}}
method: {{name: fedknow}}
training: {{rounds_per_task: {rounds}, client_fraction: 0.4, local_epochs: 1, batch_size: 40, threads: 1}}
placement: {{clients_per_actor: 10}}
fleet: [{{device: jetson-nano, count: 20}}]
"""


class Rounds(Unwatched):
    """Remembers when each round of the last task was over, its checkpoint written."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def advance(self, progress: Progress) -> None:
        """Note the time."""
        if progress.task_index == TASKS - 1 and not progress.task_finished:
            self.moments.append(now_s())


def seconds_a_round(config: Path, out: Path, backend: str, every: int) -> tuple[float, str]:
    """Make one run; return the mean seconds from round to round of its last task, and its digest."""
    rounds = Rounds()
    shutil.rmtree(out, ignore_errors=True)
    settings = {"recovery.checkpoint_every_rounds": every}
    run = execute(config, settings, backend=backend, out=out, watcher=rounds)  # type: ignore[arg-type]
    assert run.summary is not None
    shutil.rmtree(out, ignore_errors=True)
    whole_s = rounds.moments[-1] - rounds.moments[0]
    return whole_s / (len(rounds.moments) - 1), str(run.summary["parameters_sha256"])


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Make the pairs; the two of a pair directly behind each other, in turn first."""
    options.out.mkdir(parents=True, exist_ok=True)
    config = options.out / "config.yaml"
    config.write_text(CONFIG.format(data=options.data.resolve(), tasks=TASKS, rounds=ROUNDS))
    found: dict[int, list[float]] = {0: [], 1: []}
    digests = set()
    for pair in range(options.pairs):
        for every in (0, 1) if pair % 2 == 0 else (1, 0):
            seconds, digest = seconds_a_round(config, options.out / "run", options.backend, every)
            found[every].append(seconds)
            digests.add(digest)
            print(f"pair {pair}, checkpoints {'on' if every else 'off'}: {seconds:.2f} s a round", file=sys.stderr)
    differences = [on - off for off, on in zip(found[0], found[1], strict=True)]
    return {
        "backend": options.backend,
        "pairs": options.pairs,
        "digests": len(digests),
        "round_s_without": [round(each, 3) for each in found[0]],
        "round_s_with": [round(each, 3) for each in found[1]],
        "checkpoint_s_a_round": round(statistics.median(differences), 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--backend", choices=("ray", "local"), default="ray")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    print(json.dumps(measure(options), indent=None if options.json else 2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
