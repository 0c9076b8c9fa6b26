"""Chaos: kills victims of one kind at random moments of runs, and compares each run with the one never disturbed.

    python tests/runtime/chaos.py --kind client_actor --kills 20 --seed 1 --out FOLDER [--json]

Every run that was disturbed is a line of FOLDER/KIND.jsonl. Status 1 if any run is another than it would have been, or
has left a process behind.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from chaos_places import EmulatedCluster, OwnRay, Place
from chaos_runs import LOCAL, PACKED, WORKLOADS, Chaos, Disturbed, Workload
from chaos_victims import NEEDS_A_CLUSTER, STRIKES

#: How often a run is struck: as often as it lasts long enough for.
STRIKES_A_RUN = {"client_actor": 4, "server_actor": 4, "server_at_work": 4, "worker_node": 2, "driver": 2}
#: Room for all clients on each node: those of a lost one find a place whatever joins.
DEVICES = {"jetson-nano": 4, "raspberry-pi-4-4gb": 4}
#: More runs than kills: nothing can be struck there.
MOST_RUNS = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the options, disturb runs until there are enough kills, and tell what came of it."""
    options = _options(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    place = EmulatedCluster(DEVICES) if options.kind in NEEDS_A_CLUSTER else OwnRay()
    try:
        done = list(_runs(options, place))
    finally:
        place.close()
    report = {"kind": options.kind, "seed": options.seed, **summary(done)}
    print(json.dumps(report) if options.json else _text(report))
    return 0 if report["equal"] == report["runs"] and not report["left_behind"] else 1


def _runs(options: argparse.Namespace, place: Place) -> Iterator[Disturbed]:
    chaos = Chaos(place, options.seed)
    names = options.workload or list(WORKLOADS)
    workloads = [Workload(name, options.out / name) for name in names]
    if not options.unmeasured:
        for workload in workloads:
            chaos.measure(workload, workload.folder / f"undisturbed-{options.kind}-{options.seed}")
    kills, a_run = 0, STRIKES_A_RUN.get(options.kind, 1)
    for index in count():
        if kills >= options.kills or index >= MOST_RUNS * options.kills:
            return
        workload = workloads[index % len(workloads)]
        kinds = [options.kind] * min(a_run, options.kills - kills)
        out = workload.folder / f"{options.kind}-{options.seed}-{index:03d}"
        done = chaos.disturb(workload, kinds, out, (LOCAL, PACKED, ())[index % 3])
        kills += len(done.hits)
        with (options.out / f"{options.kind}.jsonl").open("a") as stream:
            stream.write(json.dumps({"seed": options.seed, "run": out.name, **done.plain()}) + "\n")
        print(f"{kills}/{options.kills} {out.name}: {done.problem or 'equal'}", file=sys.stderr, flush=True)
        yield done


def summary(done: Sequence[Disturbed]) -> dict[str, Any]:
    """Return what has come of some runs, as values that JSON can hold; seconds lost are for one kill."""
    struck = [run for run in done if run.hits]
    lost_s = [run.lost_s / len(run.hits) for run in struck]
    waits_s = [wait_s for run in done for wait_s in run.waits_s]
    return {
        "kills": sum(len(run.hits) for run in done),
        "runs": len(done),
        "equal": sum(run.problem is None for run in done),
        "problems": [run.problem for run in done if run.problem is not None],
        "lost_s": _spread(lost_s),
        "another_actor_s": _spread(waits_s),
        "headless_s": _spread([each for run in done for each in run.headless_s]),
        "rounds_again": _spread([each for run in done for each in run.rounds_again]),
        "ways": dict(Counter(way for run in done for way in run.ways)),
        "events": dict(sum((Counter(run.events) for run in done), Counter())),
        "left_behind": [each for run in done for each in run.left],
    }


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    return {"median": round(statistics.median(values), 2), "max": round(max(values), 2)} if values else None


def _text(report: dict[str, Any]) -> str:
    return "\n".join(f"{key}: {value}" for key, value in report.items())


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kind", choices=sorted(STRIKES), required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workload", action="append", choices=sorted(WORKLOADS), help="these only; repeatable")
    parser.add_argument("--unmeasured", action="store_true", help="no undisturbed runs first: no seconds lost")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
