"""The examples of CONTRIBUTING.md are run as they stand there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fedknow_ray.scenario.datasets import load_dataset
from fedknow_ray.simulation.device import parse_device
from fedknow_ray.simulation.device_library import DeviceLibrary

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")

#: One task of one round and one epoch: each run gives its digest.
RUNS = """
import json, sys
from fedknow_ray.experiment.run import execute

small = {"scenario.tasks": 1, "training.rounds_per_task": 1, "training.local_epochs": 1}
methods = {
    "fedavg": {"name": "fedavg"},
    "free": {"name": "clipped", "longest": 1e9},
    "held": {"name": "clipped", "longest": 1e-3},
}
digests = {}
for key, method in methods.items():
    run = execute(sys.argv[1], {**small, "method": method}, backend="local", out=f"{sys.argv[2]}/{key}")
    digests[key] = run.summary["parameters_sha256"]
print(json.dumps(digests))
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that holds the example method as an installed package would: its file and its entry point."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "clipped.py").write_text(blocks("python")[0], encoding="utf-8")
    group, line = blocks("toml")[0].splitlines()
    assert group == '[project.entry-points."fedknow_ray.methods"]'
    metadata = folder / "clipped_example-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: clipped-example\nVersion: 1.0\n", encoding="utf-8")
    entry = line.replace('"', "")
    (metadata / "entry_points.txt").write_text(f"[fedknow_ray.methods]\n{entry}\n", encoding="utf-8")
    return folder


def run_with(plugin: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(plugin)}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def digests(plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the final global model's digest of FedAvg, the example with a loose bound, and with a tight one."""
    out = run_with(plugin, "-c", RUNS, str(ROOT / "configs" / "quickstart.yaml"), str(tmp_path_factory.mktemp("runs")))
    found: dict[str, str] = json.loads(out.splitlines()[-1])
    return found


def test_the_example_method_is_found_by_its_entry_point(plugin: Path) -> None:
    names = json.loads(run_with(plugin, "-m", "fedknow_ray", "list", "methods", "--json"))
    assert "clipped" in names


def test_the_example_method_whose_bound_binds_nowhere_is_fedavg_to_the_bit(digests: dict[str, str]) -> None:
    assert digests["free"] == digests["fedavg"]


def test_the_example_methods_bound_changes_the_model(digests: dict[str, str]) -> None:
    assert digests["held"] != digests["fedavg"]


def test_the_example_device_is_a_device() -> None:
    device = parse_device(yaml.safe_load(blocks("yaml")[0]), "example-board.yaml")
    assert (device.name, device.memory_bytes, device.busy_w) == ("example-board", 3_892_314_112, None)


def test_the_example_heir_inherits_from_the_example_device(tmp_path: Path) -> None:
    for text in blocks("yaml")[:2]:
        (tmp_path / f"{yaml.safe_load(text)['name']}.yaml").write_text(text, encoding="utf-8")
    device = DeviceLibrary().with_own(tmp_path).get("example-board-8gb")
    assert (device.memory_bytes, device.sustained_flops_per_s) == (8_187_281_408, 16e9)


def test_the_example_data_set_can_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("python")[1], "CONTRIBUTING.md", "exec"), {})
    data = load_dataset("mydata", data_root=tmp_path)
    assert (data.train.images.shape, data.info.classes, len(data.test)) == ((400, 16, 16, 3), 4, 100)
