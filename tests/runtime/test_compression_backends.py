"""Compressed updates on both backends: the same bits, the bytes that were planned, and states that carry on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from fedknow_ray.experiment.checkpoint import checkpoint_path
from fedknow_ray.experiment.place import Backend
from fedknow_ray.experiment.run import execute
from fedknow_ray.federation.boundary import Boundary
from fedknow_ray.results.run import Run

CHOICES: dict[str, Any] = {
    "none": {"name": "none"},
    "float16": {"name": "float16"},
    "int8": {"name": "int8"},
    "topk": {"name": "topk", "fraction": 0.05},
}
compressed = pytest.mark.parametrize("name", ["float16", "int8", "topk"])


def settings(name: str, **more: Any) -> dict[str, Any]:
    return {"method.name": "fedavg", "placement.clients_per_actor": 2, "compression": CHOICES[name], **more}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("local")
    config = tiny.write_config(folder)
    return {name: execute(config, settings(name), backend="local", out=folder / name) for name in CHOICES}


def digest(run: Run) -> str:
    assert run.summary is not None
    return str(run.summary["parameters_sha256"])


def test_each_compression_trains_another_model(local: dict[str, Run]) -> None:
    assert len({digest(run) for run in local.values()}) == len(CHOICES)


def test_updates_have_the_length_of_their_weights(local: dict[str, Run]) -> None:
    """cnn6 on 8 x 8 digits has N weights; a header and what fills it up are 64 bytes, for topk a little more and so
    128."""
    sizes = {name: trained(run, "upload_bytes") for name, run in local.items()}
    assert all(len(set(lengths)) == 1 for lengths in sizes.values())
    (N, rest) = divmod(sizes["none"][0] - 64, 4)
    assert rest == 0
    k = -(-N // 20)
    tensors = 14  # a weight and a bias of each of 6 convolutions and the linear layer
    up = {name: lengths[0] for name, lengths in sizes.items()}
    assert up["float16"] == 64 + 2 * N
    assert up["int8"] == 64 + N + -N % 64 + 4 * tensors
    assert up["topk"] == 128 + 4 * k + -(4 * k) % 64 + 4 * k


def test_broadcasts_are_as_long_as_ever(local: dict[str, Run]) -> None:
    down = {name: run.visits["download_bytes"].to_pylist() for name, run in local.items()}
    assert down["float16"] == down["int8"] == down["topk"] == down["none"]


@compressed
def test_a_training_visit_moves_the_bytes_of_compression_beside_its_own(name: str, local: dict[str, Run]) -> None:
    N = (trained(local["none"], "upload_bytes")[0] - 64) // 4
    more = {"float16": 6 * N, "int8": 25 * N, "topk": 24 * N + 12 * -(-N // 20)}[name]
    pairs = zip(trained(local[name], "moved_bytes"), trained(local["none"], "moved_bytes"), strict=True)
    assert {got - plain for got, plain in pairs} == {more}


def trained(run: Run, column: str) -> list[int]:
    return [row[column] for row in run.visits.to_pylist() if row["kind"] == "train"]


@pytest.mark.ray
@pytest.mark.parametrize(
    "name", ["topk", pytest.param("float16", marks=pytest.mark.slow), pytest.param("int8", marks=pytest.mark.slow)]
)
def test_both_backends_give_the_same_bits(name: str, local: dict[str, Run], tmp_path: Path) -> None:
    there = execute(tiny.write_config(tmp_path), settings(name), out=tmp_path / "ray")
    assert_same(there, local[name])


@pytest.mark.ray
def test_so_they_do_with_a_global_head_where_updates_come_late(tmp_path: Path) -> None:
    """FedBuff: the broadcasts of a merge's visits differ, and each difference is added to its own."""
    policy = {"name": "fedbuff", "buffer_size": 2}
    config, more = tiny.write_config(tmp_path), settings("int8", **{"model.head": "global", "policy": policy})
    here = execute(config, more, backend="local", out=tmp_path / "local")
    assert_same(execute(config, more, out=tmp_path / "ray"), here)


def assert_same(there: Run, here: Run) -> None:
    assert digest(there) == digest(here)
    assert tiny.without_host(there.visits).equals(tiny.without_host(here.visits))
    assert there.accuracy.equals(here.accuracy)


@pytest.mark.ray
@pytest.mark.parametrize(("first", "second"), [("ray", "local"), pytest.param("local", "ray", marks=pytest.mark.slow)])
def test_a_saved_run_owes_what_it_owed(first: Backend, second: Backend, local: dict[str, Run], tmp_path: Path) -> None:
    config, boundary = tiny.write_config(tmp_path), Boundary(0, False)
    chosen = settings("topk")
    execute(config, chosen, backend=first, out=tmp_path / "past", save_at=[boundary], checkpoints=tmp_path)
    fork = execute(
        config, chosen, backend=second, out=tmp_path / "fork", start_from=checkpoint_path(tmp_path, boundary)
    )
    assert digest(fork) == digest(local["topk"])
    assert tiny.without_host(fork.visits).equals(tiny.without_host(local["topk"].visits))


def test_compression_loses_little_of_a_small_run(local: dict[str, Run]) -> None:
    """float16 and int8 stay within a few points of the plain run; a mistake of sign or base would be at chance."""

    def mean(run: Run) -> float:
        last = run.accuracy.to_pylist()[-8:]
        return float(np.mean([row["correct"] / row["total"] for row in last]))

    for name in ("float16", "int8"):
        assert mean(local[name]) >= mean(local["none"]) - 0.1
