"""Whether anything grows while a run goes on and on, or stays behind when many are made in one process.

    python benchmarks/soak.py rounds --rounds 500 --clients 50 --out DIR [--json]
    python benchmarks/soak.py runs --runs 20 [--backend local] --out DIR [--json]

`rounds` makes one run on a Ray of its own, with its clients packed into actors, and looks at all of its processes each
so many rounds: memory, open files, threads, the object store, the run directory. `runs` makes one run after the other
and looks at what is there after each that was not there after the first.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from soak_figures import Held, Surroundings, family, folder_figures, held_by, slope

from fedknow_ray.experiment.run import execute
from fedknow_ray.experiment.watching import Unwatched
from fedknow_ray.federation.standing import Progress

MIB = 2**20
TASKS = 2
CONFIG = """\
seed: 5
scenario:
  {{dataset: digits, tasks: {tasks}, classes_per_task: 5, clients: {clients}, samples_per_client: {samples},
   partition: {{name: shards, shards_per_client: 2}}}}
method: {{name: fedknow}}
training: {{rounds_per_task: {rounds}, client_fraction: {fraction}, local_epochs: 1, batch_size: 4}}
placement: {{clients_per_actor: {packed}}}
fleet: [{{device: jetson-nano, count: {clients}}}]
"""


class Looks(Unwatched):
    """Looks at the processes of a run each *every* rounds."""

    def __init__(self, every: int, run_dir: Path) -> None:
        self._every, self._run_dir = every, run_dir
        self.looks: list[dict[str, Any]] = []
        self._began_s = time.monotonic()

    def advance(self, progress: Progress) -> None:
        """Look, if it is time to."""
        if progress.task_finished or progress.rounds_done % self._every:
            return
        held = [each for pid in family() if (each := held_by(pid)) is not None]
        objects, used_bytes = object_store()
        files, run_bytes = folder_figures(self._run_dir)
        session_files, session_bytes = folder_figures(session_folder())
        self.looks.append(
            {
                "round": progress.rounds_done,
                "task_index": progress.task_index,
                "wall_s": round(time.monotonic() - self._began_s, 1),
                "groups": grouped(held),
                "objects": objects,
                "object_store_bytes": used_bytes,
                "run_files": files,
                "run_bytes": run_bytes,
                "session_files": session_files,
                "session_bytes": session_bytes,
            }
        )
        now = self.looks[-1]
        whole = {what: sum(group[what] for group in now["groups"].values()) for what in ("pss_bytes", "files")}
        print(
            f"round {now['round']}: {whole['pss_bytes'] / MIB:.0f} MiB PSS, {whole['files']} open files, "
            f"{objects} objects of {used_bytes / MIB:.1f} MiB, {files} files of {run_bytes / MIB:.1f} MiB in the run",
            file=sys.stderr,
            flush=True,
        )


def grouped(held: Sequence[Held]) -> dict[str, dict[str, int]]:
    """Sum what processes of one name hold."""
    groups: dict[str, dict[str, int]] = {}
    for each in held:
        group = groups.setdefault(
            each.title, dict.fromkeys(("processes", "rss_bytes", "pss_bytes", "files", "threads"), 0)
        )
        group["processes"] += 1
        for what in ("rss_bytes", "pss_bytes", "files", "threads"):
            group[what] += getattr(each, what)
    return groups


def object_store() -> tuple[int, int]:
    """How many objects this process holds references to, and how many bytes of the store are in use."""
    import ray
    from ray._private.worker import global_worker

    held = len(global_worker.core_worker.get_all_reference_counts())
    whole, free = (of().get("object_store_memory", 0.0) for of in (ray.cluster_resources, ray.available_resources))
    return held, int(whole - free)


def session_folder() -> Path:
    """Where the Ray of this run keeps its logs and sockets."""
    from ray._private.worker import _global_node

    return Path(_global_node.get_session_dir_path())


def slopes(looks: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The growth of each figure for 100 rounds, in each task apart, from its second look on: what a task begins with
    is kept from it on."""
    found: dict[str, dict[str, float]] = {}
    for task_index in sorted({look["task_index"] for look in looks}):
        own = [look for look in looks if look["task_index"] == task_index][1:]
        if len(own) < 2:
            continue
        rounds = [float(look["round"]) for look in own]
        figures = {
            what: [float(look[what]) for look in own]
            for what in ("objects", "object_store_bytes", "run_files", "run_bytes", "session_bytes")
        }
        for name in own[0]["groups"]:
            for what in ("pss_bytes", "rss_bytes", "files", "threads"):
                figures[f"{name} {what}"] = [float(look["groups"].get(name, {}).get(what, 0)) for look in own]
        for what, values in figures.items():
            found.setdefault(what, {})[f"task {task_index}"] = round(100.0 * slope(rounds, values), 3)
    return found


def write_config(folder: Path, clients: int, rounds: int, packed: int, fraction: float) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "soak.yaml"
    path.write_text(
        CONFIG.format(
            tasks=TASKS,
            clients=clients,
            rounds=rounds,
            packed=packed,
            fraction=fraction,
            samples=max(4, 240 // clients),
        )
    )
    return path


def many_rounds(options: argparse.Namespace) -> dict[str, Any]:
    config = write_config(options.out, options.clients, options.rounds // TASKS, options.packed, options.fraction)
    run_dir = options.out / "run"
    looks = Looks(options.every, run_dir)
    run = execute(config, out=run_dir, watcher=looks)
    assert run.summary is not None
    return {
        "rounds": options.rounds,
        "clients": options.clients,
        "wall_s": round(run.summary["wall_s"], 1),
        "parameters_sha256": run.summary["parameters_sha256"],
        "slope_for_100_rounds": slopes(looks.looks),
        "looks": looks.looks,
    }


def many_runs(runs: int, backend: str, out: Path) -> dict[str, Any]:
    """Make runs one after the other; the first brings libraries along, so the later ones are held against it."""
    # nobody else's folders are looked at
    folder = tempfile.mkdtemp(prefix="fks-")
    before, tempfile.tempdir = tempfile.tempdir, folder
    try:
        config = write_config(out, clients=4, rounds=2, packed=2, fraction=0.5)
        digests, first, after = set(), None, []
        for number in range(runs):
            run = execute(config, backend=backend, out=out / f"run-{number}")  # type: ignore[arg-type]
            digests.add((run.summary or {})["parameters_sha256"])
            del run
            gc.collect()
            now = Surroundings.now()
            first = first or now
            after.append(now.more_than(first))
            print(f"run {number}: {after[-1]}", file=sys.stderr, flush=True)
    finally:
        tempfile.tempdir = before
        shutil.rmtree(folder, ignore_errors=True)
    megabytes = [each["rss_bytes"] / MIB for each in after]
    return {
        "backend": backend,
        "runs": runs,
        "digests": len(digests),
        "left_behind": {k: v for k, v in after[-1].items() if k != "rss_bytes"},
        "rss_mib_since_first": [round(each, 1) for each in megabytes],
        "rss_mib_for_one_run": round(slope([float(n) for n in range(runs)], megabytes), 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("what", choices=("rounds", "runs"))
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--packed", type=int, default=10, help="clients in an actor")
    parser.add_argument("--fraction", type=float, default=0.1, help="of the clients that visit in a round")
    parser.add_argument("--every", type=int, default=25, help="rounds from one look to the next")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--backend", choices=("ray", "local"), default="ray")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = many_rounds(options) if options.what == "rounds" else many_runs(options.runs, options.backend, options.out)
    print(json.dumps(found, indent=None if options.json else 2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
