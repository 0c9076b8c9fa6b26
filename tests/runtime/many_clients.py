"""Places many clients on an emulated cluster of this machine, and makes one round on 1, 2, 4 and 8 nodes.

    python tests/runtime/many_clients.py --out DIR [--clients 1000] [--actors 16] [--nodes 1,2,4,8] [--json]

Images of 8 x 8 drawn from a seed: it is placement and memory that are looked at, and whether nodes change the bits.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from chaos_run import Disturbed, Setting
from chaos_tally import witnessed
from processes import CLIENT, titled

from fedknow_ray.results.run import load

TEXT = """\
seed: 3
scenario:
  {{dataset: tiny, source: parquet, data_root: {root}, tasks: 1, classes_per_task: 10, clients: {clients},
   partition: {{name: shards, shards_per_client: 1}}}}
model: {{name: cnn6_quarter}}
method: {{name: fedknow}}
training: {{rounds_per_task: 1, client_fraction: 0.02, local_epochs: 1, batch_size: 8}}
placement: {{clients_per_actor: {packed}}}
fleet: [{{device: jetson-nano, count: {clients}}}]
"""


def write_images(folder: Path, split: str, images: int) -> None:
    """Write raw 8 x 8 images of 10 classes; a class is a brighter row."""
    rng = np.random.default_rng(0)
    labels = np.arange(images) % 10
    pixels = rng.integers(0, 100, (images, 8, 8, 1), dtype=np.uint8)
    pixels[np.arange(images), labels % 8] += (100 + labels[:, None, None]).astype(np.uint8)
    rows = pa.table({"image": [each.tobytes() for each in pixels], "label": labels})
    size = {"height": "8", "width": "8", "channels": "1", "encoding": "raw"}
    pq.write_table(rows.replace_schema_metadata(size), folder / f"tiny-{split}.parquet")


def pss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def of_actors(one: Disturbed) -> list[int]:
    found = []
    for pid in titled(CLIENT, one.pids()):
        try:
            found.append(pss_bytes(pid))
        except OSError:
            continue
    return found


def one_run(out: Path, config: Path, clients: int, actors: int, nodes: int) -> dict[str, Any]:
    of_a_node = math.ceil(actors / nodes) * math.ceil(clients / actors)
    setting = Setting(config, (), (), True, {"device:jetson-nano": float(of_a_node)}, workers=nodes)
    one = Disturbed(setting, out, random.Random(1), {})
    ready: list[int] = []
    most: list[int] = []
    try:
        while one.driver.poll() is None:
            if any(line["what"] == "started" for line in witnessed(one.witness)):
                now = of_actors(one)
                ready = ready or now
                most = max(most, now, key=sum)
            time.sleep(1.0)
        told = out.with_suffix(".stderr").read_text()[-2000:]
        assert one.driver.returncode == 0, told
    finally:
        one.clear_up()
    at_s = {line["what"]: line["at_s"] for line in reversed(witnessed(one.witness))}
    run = load(out)
    assert run.summary is not None
    return {
        "nodes": nodes,
        "nodes_used": len({row["node_id"] for row in run.placement.to_pylist()}),
        "actors": len({row["actor_id"] for row in run.placement.to_pylist()}),
        "seconds_to_place": round(at_s["started"] - at_s["placing"], 1),
        "actor_mib_when_placed": round(sum(ready) / len(ready) / 2**20, 1),
        "actor_mib_at_most": round(sum(most) / len(most) / 2**20, 1),
        "kib_for_a_client": round((sum(most) - sum(ready)) / clients / 2**10, 1),
        "mib_for_a_client_and_its_share": round(sum(most) / clients / 2**20, 2),
        "wall_s": round(run.summary["wall_s"], 1),
        "parameters_sha256": run.summary["parameters_sha256"],
        "faults": [*one.faults, *one.left_behind],
        "load_average": round(os.getloadavg()[0], 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--actors", type=int, default=16)
    parser.add_argument("--nodes", default="1,2,4,8")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    write_images(options.out, "train", 4 * options.clients)
    write_images(options.out, "test", options.clients)
    config, packed = options.out / "many.yaml", math.ceil(options.clients / options.actors)
    config.write_text(TEXT.format(root=options.out, clients=options.clients, packed=packed))
    rows = []
    for nodes in map(int, options.nodes.split(",")):
        rows.append(one_run(options.out / f"nodes-{nodes}", config, options.clients, options.actors, nodes))
        print(rows[-1], file=sys.stderr, flush=True)
    same = len({row["parameters_sha256"] for row in rows}) == 1
    print(json.dumps({"clients": options.clients, "same_bits": same, "rows": rows}, indent=None if options.json else 2))
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
