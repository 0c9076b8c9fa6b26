"""FedWEIT in whole runs: the same bits on both backends, the bytes that were planned, and both scorings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny

from fedknow_ray.errors import UserError
from fedknow_ray.experiment.assembly import open_data, put_together
from fedknow_ray.experiment.place import Place
from fedknow_ray.experiment.run import execute, read_config
from fedknow_ray.experiment.verify import verify
from fedknow_ray.results.run import Run

FEDWEIT: dict[str, Any] = {"method": {"name": "fedweit"}, "placement.clients_per_actor": 2}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("local")
    return execute(tiny.write_config(folder), FEDWEIT, backend="local", out=folder / "run")


def digest(run: Run) -> str:
    assert run.summary is not None
    return str(run.summary["parameters_sha256"])


def test_b_comes_down_whole_and_goes_up_without_the_smallest_masks(local: Run, tmp_path: Path) -> None:
    """A header of 192 bytes, a bit a row, and the values: what the layout of cnn6 says of 70 % of its rows."""
    config = read_config(tiny.write_config(tmp_path), FEDWEIT)
    parts = put_together(config, open_data(config))
    P, compressor = parts.assembly.costs().footprint.P, parts.assembly.compressor()
    assert compressor is not None
    rows = {(row["kind"], row["download_bytes"], row["upload_bytes"]) for row in local.visits.to_pylist()}
    assert rows == {("train", 64 + 4 * P, compressor.update_bytes), ("finish_task", 64 + 4 * P, 0)}
    # a little more than 70 %: the number of rows left out of a tensor is rounded down
    assert 0.70 < compressor.update_bytes / (4 * P) < 0.73


def test_the_two_evaluations_agree_on_the_task_just_learnt_and_train_the_same(local: Run, tmp_path: Path) -> None:
    current = {**FEDWEIT, "method": {"name": "fedweit", "evaluation": "current"}}
    there = execute(tiny.write_config(tmp_path), current, backend="local", out=tmp_path / "run")
    assert digest(there) == digest(local)

    def latest(run: Run) -> list[dict[str, Any]]:
        rows = run.accuracy.to_pylist()
        return [row for row in rows if row["trained_task_index"] == row["task_index"] or row["model"] == "global"]

    assert latest(there) == latest(local)


def test_it_is_made_again_to_the_bit(local: Run) -> None:
    assert verify(local.path, place=Place("local")).mismatch is None


def test_it_refuses_another_compression(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'topk' does not go with fedweit"):
        read_config(tiny.write_config(tmp_path), {**FEDWEIT, "compression": {"name": "topk"}})


@pytest.mark.ray
def test_both_backends_give_the_same_bits(local: Run, tmp_path: Path) -> None:
    """Each update is put into the broadcast that its visit started from, where the server is."""
    there = execute(tiny.write_config(tmp_path), FEDWEIT, out=tmp_path / "ray")
    assert digest(there) == digest(local)
    assert tiny.without_host(there.visits).equals(tiny.without_host(local.visits))
    assert there.accuracy.equals(local.accuracy)
