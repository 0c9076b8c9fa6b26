"""Prints communication time against bandwidth beside the paper's: from one recorded run, or from a config alone.

python benchmarks/bandwidth.py RUN_DIR                                        replays a finished run (what-if)
python benchmarks/bandwidth.py configs/cifar100.yaml [--set KEY=VALUE ...]    tells the config's course, untrained

The communication time of a round is what its last visit took to download and upload, and, where the method refines, to
download once more; that of a run is the sum over its rounds. It depends on links, bytes and rounds: a run that trains
little has it as well. The two ways give the same seconds; the second needs no run, the first no data and no torch.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedknow_ray.errors import UserError

BANDWIDTHS = (50e3, 100e3, 500e3, 1e6, 5e6, 10e6)
"""Bytes a second, up and down, of each client's own link."""
PAPER_H = {50e3: 12.15, 100e3: 6.2, 500e3: 1.4, 1e6: 0.70, 10e6: 0.06}
"""Hours of FedKNOW with the 6-layer CNN on CIFAR-100, 10 tasks, 20 Jetsons: read off the bandwidth figure of
arXiv:2212.01738; it has no point at 5 MB/s."""
PAPER_ROUNDS = 10 * 15
"""A run of other length has nothing to stand beside."""

Row = Mapping[str, Any]


def overrides_of(bytes_per_s: float) -> dict[str, float]:
    return {"network.uplink_bytes_per_s": bytes_per_s, "network.downlink_bytes_per_s": bytes_per_s}


def communication_s(visits: Iterable[Row]) -> float:
    """Return the transfer part of all rounds, of rows of the table `visits`."""
    groups: dict[tuple[int, int, str], list[Row]] = {}
    for row in visits:
        if row["kind"] != "finish_task" and row["status"] == "ok":
            groups.setdefault((row["task_index"], row["round_index"], row["kind"]), []).append(row)
    last = [max(rows, key=_end_s) for rows in groups.values()]
    return sum(row["download_s"] + row["upload_s"] for row in last)


def _end_s(row: Row) -> float:
    return float(row["start_s"] + row["download_s"] + row["compute_s"] + row["upload_s"])


def replayed(run_dir: Path, bytes_per_s: float) -> tuple[list[Row], float]:
    """Return the visits of a recorded run at a bandwidth, and its virtual seconds."""
    from fedknow_ray.experiment.what_if import what_if

    answer = what_if(run_dir, overrides_of(bytes_per_s))
    if answer.replayed is None:
        raise UserError(f"at {bytes_per_s:g} bytes/s retraining is needed: {answer.reason}")
    return answer.replayed.tables["visits"].to_pylist(), answer.replayed.virtual_time_s


def told(config: Path, sets: Sequence[str], bytes_per_s: float) -> tuple[list[Row], float]:
    """Return the visits of a config's course at a bandwidth, and its virtual seconds; nothing is trained."""
    from fedknow_ray.experiment.assembly import make_assembly, open_labels, outline
    from fedknow_ray.experiment.run import read_config
    from fedknow_ray.federation.engine import Engine
    from fedknow_ray.federation.steps import Closed

    links = [f"{key}={value}" for key, value in overrides_of(bytes_per_s).items()]
    resolved = read_config(config, [*sets, *links])
    planned = outline(make_assembly(resolved, open_labels(resolved)))
    engine = Engine(planned.course, planned.ledger, planned.policy, planned.conditions)
    visits = []
    for task_index in range(planned.course.tasks):
        for step in (*engine.rounds(task_index), *engine.finish(task_index, engine.trained)):
            if isinstance(step, Closed):
                rows = (flight.row(None) for flight in step.flights)
                visits += [{name: getattr(row, name) for name in row.__slots__} for row in rows]
    return visits, engine.now_s


def measure(source: Path, sets: Sequence[str]) -> Iterator[dict[str, float | None]]:
    """Yield the hours at each bandwidth."""
    for bytes_per_s in BANDWIDTHS:
        visits, time_s = replayed(source, bytes_per_s) if source.is_dir() else told(source, sets, bytes_per_s)
        rounds = len({(row["task_index"], row["round_index"]) for row in visits if row["kind"] == "train"})
        yield {
            "bytes_per_s": bytes_per_s,
            "communication_h": communication_s(visits) / 3600,
            "virtual_time_h": time_s / 3600,
            "paper_h": PAPER_H.get(bytes_per_s) if rounds == PAPER_ROUNDS else None,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("source", type=Path, metavar="RUN_DIR|CONFIG")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE", help="of a config")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    options = parser.parse_args()
    if options.source.is_dir() and options.sets:
        parser.error("--set is for a config; a recorded run has its own, and only the links are changed")
    rows = measure(options.source, options.sets)
    if options.json:
        for row in rows:
            print(json.dumps(row))
        return
    print("| bandwidth, MB/s | communication, h | paper, h | whole run, virtual h |\n|---|---|---|---|")
    for row in rows:
        paper = "-" if row["paper_h"] is None else f"{row['paper_h']:.2f}"
        hours = f"{row['communication_h']:.3f} | {paper} | {row['virtual_time_h']:.3f}"
        print(f"| {float(row['bytes_per_s'] or 0) / 1e6:g} | {hours} |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
