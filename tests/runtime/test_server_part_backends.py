"""A method with a server part on both backends: the same bits, the bytes that were planned, and runs that go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import tiny

from fedknow_ray.experiment.assembly import open_data, put_together
from fedknow_ray.experiment.fork import fork
from fedknow_ray.experiment.place import Place
from fedknow_ray.experiment.run import execute, read_config
from fedknow_ray.experiment.verify import verify
from fedknow_ray.federation.executor import MergeOrder
from fedknow_ray.federation.visit import VisitKind, VisitOrder
from fedknow_ray.methods.method import VisitFacts
from fedknow_ray.results.run import Run
from fedknow_ray.runtime.local import LocalExecutor
from fedknow_ray.runtime.server_link import ServerLink
from fedknow_ray.transport.payload import decode

FLCN = {"method": {"name": "flcn", "strength": 0.1, "server_samples": 0.25}, "placement.clients_per_actor": 2}
FEDAVG = {**FLCN, "method": {"name": "fedavg"}}
LOCAL = Place("local")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("local")
    return execute(tiny.write_config(folder), FLCN, backend="local", out=folder / "run")


def digests(run: Run) -> list[str]:
    return [str(digest) for digest in run.rounds["parameters_sha256"].to_pylist()]


def bytes_of(run: Run, kind: str, *, task_index: int = 0) -> set[tuple[int, int]]:
    rows = [row for row in run.visits.to_pylist() if (row["kind"], row["task_index"]) == (kind, task_index)]
    return {(row["download_bytes"], row["upload_bytes"]) for row in rows}


def same(there: Run, here: Run) -> None:
    assert digests(there) == digests(here)
    assert tiny.without_host(there.visits).equals(tiny.without_host(here.visits))
    assert there.accuracy.equals(here.accuracy)


def test_importance_comes_down_beside_the_model_and_the_model_alone_goes_up(local: Run, tmp_path: Path) -> None:
    """FedAvg's bytes, and P floats down, aligned as every array is: the headers are 64 and 128 bytes long."""
    config = read_config(tiny.write_config(tmp_path), FLCN)
    P = put_together(config, open_data(config)).assembly.costs().footprint.P
    up = 64 + 4 * P
    down = 128 + 4 * P + -(4 * P) % 64 + 4 * P
    assert bytes_of(local, "train") == {(down, up)}
    assert bytes_of(local, "finish_task") == {(down, 0)}


def test_the_importance_makes_another_model_from_the_second_round_on(local: Run, tmp_path: Path) -> None:
    """The first broadcast has none: one round is FedAvg's, and so are all with no strength."""
    config = tiny.write_config(tmp_path)
    off = {**FLCN, "method": {"name": "flcn", "strength": 0}}
    fedavg = execute(config, {"method.name": "fedavg"}, backend="local", out=tmp_path / "fedavg")
    nothing = execute(config, off, backend="local", out=tmp_path / "nothing")
    assert digests(nothing) == digests(fedavg)
    assert nothing.accuracy.equals(fedavg.accuracy)
    assert digests(local)[0] == digests(fedavg)[0]
    assert digests(local)[1] != digests(fedavg)[1]


def test_the_broadcast_after_a_merge_has_the_importance_of_the_tasks_seen(tmp_path: Path) -> None:
    config = read_config(tiny.write_config(tmp_path), FLCN)
    parts = put_together(config, open_data(config))
    executor = LocalExecutor(parts.assembly, parts.dataset, parts.start, parts.broadcast)
    served = []
    for task_index in (0, 1):
        facts = VisitFacts(0, task_index, 0, parts.course.images[0][task_index], 2, trained_this_task=False)
        order = VisitOrder(VisitKind.TRAIN, facts, parts.course.seed)
        executor.dispatch([order])
        assert executor.report(order).download_bytes == parts.broadcast.nbytes
        executor.merge(MergeOrder((order,), (1.0,)))
        served.append(decode(executor.global_model())["served/importance"])
        assert executor.global_model().nbytes == parts.broadcast.nbytes == parts.ledger.broadcast_bytes
    assert all(values.any() and np.isfinite(values).all() for values in served)


@pytest.mark.parametrize(
    "more",
    [
        {"compression": {"name": "topk", "fraction": 0.1}, "model.head": "global"},
        {"policy": {"name": "fedbuff", "buffer_size": 2}},
        {"policy": {"name": "fedasync", "concurrency": 2}},
        {"task_arrival": {"every_s": 5.0}},
    ],
    ids=["compressed, global head", "fedbuff", "fedasync", "by time"],
)
def test_it_goes_with_what_else_a_run_can_have(more: dict[str, Any], tmp_path: Path) -> None:
    run = execute(tiny.write_config(tmp_path), {**FLCN, **more}, backend="local", out=tmp_path / "run")
    assert run.summary is not None
    assert len(set(digests(run))) > 1


def test_the_run_made_again_from_its_record_is_the_run(local: Run) -> None:
    assert verify(local.path, place=LOCAL).mismatch is None


def test_forks_to_and_from_it_begin_with_no_importance(local: Run, tmp_path: Path) -> None:
    plain = fork(local.path, 1, FEDAVG, out=tmp_path / "plain", place=LOCAL)
    ((down, up),) = bytes_of(plain, "train", task_index=1)
    assert down == up
    back = fork(plain.path, 1, FLCN, out=tmp_path / "back", place=LOCAL)
    assert bytes_of(back, "train", task_index=1) == bytes_of(local, "train")
    # two rounds a task: the first of the forks starts from the same model without importance, the second does not
    assert digests(back)[2] == digests(plain)[2]
    assert digests(back)[3] != digests(plain)[3]


@pytest.mark.ray
def test_both_backends_give_the_same_bits(local: Run, tmp_path: Path) -> None:
    same(execute(tiny.write_config(tmp_path), FLCN, out=tmp_path / "ray"), local)


@pytest.mark.ray
def test_a_server_that_is_lost_is_made_anew_and_serves_what_it_would_have(
    local: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its actor is killed before the second merge, when the model is no longer that of the start."""
    merges: list[int] = []
    merge = ServerLink.merge

    def struck(link: ServerLink, *arguments: Any) -> Any:
        merges.append(len(merges))
        if len(merges) == 2:
            ray.kill(link._actor)
        return merge(link, *arguments)

    monkeypatch.setattr(ServerLink, "merge", struck)
    run = execute(tiny.write_config(tmp_path), FLCN, out=tmp_path / "ray")
    same(run, local)
    lost = [json.loads(row["detail"])["what"] for row in run.events.to_pylist() if row["kind"] == "actor_lost"]
    assert lost == ["server_actor"]
