"""The format of checkpoints: whole or refused, whatever byte of it is another, and nothing of a stranger's is run."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import Recorder, run_small

from fedknow_ray.errors import UserError
from fedknow_ray.experiment.checkpoint import Checkpoint, open_checkpoint
from fedknow_ray.experiment.checkpoint_file import (
    OBJECTS,
    CheckpointError,
    Header,
    canonical,
    load_saved,
    read_header,
    store_saved,
    store_table,
    write_header,
)
from fedknow_ray.experiment.run_checkpoints import CHECKPOINTS, latest_whole
from fedknow_ray.federation.boundary import Boundary
from fedknow_ray.federation.engine_state import EngineState, Unfinished
from fedknow_ray.federation.executor import Saved, SavedVisit
from fedknow_ray.federation.standing import SchedulerState
from fedknow_ray.federation.visit import VisitKind, VisitOrder, VisitReport
from fedknow_ray.methods.method import VisitFacts
from fedknow_ray.results.objects import ObjectFolder
from fedknow_ray.results.schema import TABLES
from fedknow_ray.simulation.work import Work, WorkItem

ORDER = VisitOrder(VisitKind.TRAIN, VisitFacts(1, 2, 3, 40, 2, True, 5, 1, 1, (41, 42)), 7)
LATER = VisitOrder(VisitKind.FINISH_TASK, VisitFacts(0, 2, 4, 40, 2, False), 7)
REPORT = VisitReport(Work((WorkItem("train", 3, 4, 5, 6),)), 0.1 + 0.2, None, 2, 10, 20, 1.5, 1.25, {"x": 0.1}, "norm")
STATE = SchedulerState(
    boundary=Boundary(1, True),
    engine=EngineState(1.5, 4, {1: (Unfinished(0, True, 1),)}, frozenset({3}), {0: 0.5}),
    transferred_bytes=10,
    accuracy=1 / 3,
    trained=frozenset({2, 0}),
    steps=17,
    time_s=2.5,
    reports=((ORDER, REPORT),),
    measured_s=(0.1, 0.7),
    refused=frozenset({ORDER}),
    own_accuracy={0: (0.25, 1 / 3)},
)


def write_small(path: Path, position: int = 1) -> Header:
    """A checkpoint of 8 kB with all kinds of thing in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    objects = ObjectFolder(path.parent / OBJECTS)
    base, update = np.arange(40, dtype=np.uint8), np.arange(30, dtype=np.uint8)
    visits = (SavedVisit(ORDER, base, update), SavedVisit(LATER, base))
    stored = store_saved(Saved(base + position, {0: b"zero", 1: b"one"}, visits), objects, {5: objects.put(b"five")})
    names = {name: store_table(TABLES[name].empty_table(), objects) for name in TABLES if name != "placement"}
    stored = type(stored)(stored.broadcast, stored.states, stored.visits, {n: (0, blob) for n, blob in names.items()})
    header = Header({"seed": 1}, None, {"torch": "2.6"}, STATE, 2.5, position, stored)
    write_header(path, header)
    return header


def check(path: Path) -> Checkpoint:
    checkpoint = open_checkpoint(path)
    checkpoint.check_whole()
    return checkpoint


def test_a_checkpoint_comes_back_as_it_was_written(tmp_path: Path):
    header = write_small(tmp_path / "a.ckpt")
    read, digest = read_header(tmp_path / "a.ckpt")
    assert read == header
    assert digest == sha256(b"".join((tmp_path / "a.ckpt").read_bytes().splitlines(keepends=True)[:2])).hexdigest()
    saved = load_saved(read.stored, ObjectFolder(tmp_path / OBJECTS))
    assert saved.broadcast.tolist() == list(range(1, 41))
    assert dict(saved.states) == {0: b"zero", 1: b"one", 5: b"five"}
    assert [(v.order, v.base.tolist(), v.update is None) for v in saved.visits] == [
        (ORDER, list(range(40)), False),
        (LATER, list(range(40)), True),
    ]
    # what two visits start from is one array again, so that it is sent once
    assert saved.visits[0].base is saved.visits[1].base


def test_the_text_can_be_read_with_a_pager(tmp_path: Path):
    write_small(tmp_path / "a.ckpt")
    first, second, third = (tmp_path / "a.ckpt").read_text().splitlines()
    assert first == "fedknow-ray checkpoint 4"
    assert json.loads(second)["state"]["steps"] == 17
    assert len(third) == 64


def test_what_has_not_changed_is_not_written_again(tmp_path: Path):
    write_small(tmp_path / "a.ckpt", 1)
    before = {path.name for path in (tmp_path / OBJECTS).iterdir()}
    write_small(tmp_path / "b.ckpt", 2)
    assert len({path.name for path in (tmp_path / OBJECTS).iterdir()} - before) == 1


def flipped(path: Path, place: int, mask: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= mask
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_any_byte_that_is_another_is_noticed(step: int, tmp_path: Path):
    """All of a small checkpoint, its blobs included: none of them is over 32 KiB together."""
    write_small(tmp_path / "a.ckpt")
    files = [tmp_path / "a.ckpt", *(tmp_path / OBJECTS).iterdir()]
    assert sum(path.stat().st_size for path in files) <= 32 * 2**10
    rng = random.Random(1)
    for path in files:
        for place in range(0, path.stat().st_size, step):
            mask = rng.randrange(1, 256)
            flipped(path, place, mask)
            with pytest.raises(CheckpointError):
                check(tmp_path / "a.ckpt")
            flipped(path, place, mask)
    check(tmp_path / "a.ckpt")


def test_a_checkpoint_cut_off_anywhere_is_noticed(tmp_path: Path):
    write_small(tmp_path / "a.ckpt")
    whole = (tmp_path / "a.ckpt").read_bytes()
    for length in range(0, len(whole), 3):
        (tmp_path / "a.ckpt").write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            check(tmp_path / "a.ckpt")


@pytest.mark.parametrize("bytes_to_try", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_where_the_last_one_is_broken_the_one_before_is_used(bytes_to_try: int, tmp_path: Path):
    """So many bytes of a real run's last checkpoint, one after the other; what only it needs may be any of them."""
    overrides = {"method.name": "fedknow", "training.rounds_per_task": 3}
    with pytest.raises(KeyboardInterrupt):
        run_small(tmp_path, overrides, Recorder(KeyboardInterrupt(), after=6))
    run_dir = tmp_path / "run"
    folder = run_dir / CHECKPOINTS
    last = latest_whole(run_dir, pytest.fail)
    assert last is not None
    others = [open_checkpoint(path) for path in folder.glob("*.ckpt") if path != last.path]
    before = max(others, key=lambda each: each.header.position)
    own = [folder / OBJECTS / name for name in last.header.stored.names - before.header.stored.names]
    files = [last.path, *own]
    sizes = [path.stat().st_size for path in files]
    rng = random.Random(2)
    for _ in range(bytes_to_try):
        path = rng.choices(files, sizes)[0]
        place, mask, told = rng.randrange(path.stat().st_size), rng.randrange(1, 256), list[str]()
        flipped(path, place, mask)
        found = latest_whole(run_dir, told.append)
        assert found is not None and found.path == before.path
        assert len(told) == 1 and last.path.name in told[0]
        flipped(path, place, mask)


def forged(tmp_path: Path, change: Any) -> Path:
    """A checkpoint whose digest holds, and which says something else."""
    write_small(tmp_path / "a.ckpt")
    first, second, _ = (tmp_path / "a.ckpt").read_bytes().splitlines(keepends=True)
    plain = json.loads(second)
    change(plain)
    text = first + canonical(plain) + b"\n"
    (tmp_path / "a.ckpt").write_bytes(text + sha256(text).hexdigest().encode() + b"\n")
    return tmp_path / "a.ckpt"


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: plain.pop("state"),
        lambda plain: plain.update(broadcast="../../etc/passwd"),
        lambda plain: plain.update(broadcast=["a"]),
        lambda plain: plain.update(states=[[0, "/etc/passwd"]]),
        lambda plain: plain.update(states=7),
        lambda plain: plain["tables"].update(visits=[1, "x" * 64]),
        lambda plain: plain["visits"][0]["order"].update(kind="rm -rf"),
        lambda plain: plain["visits"][0]["order"]["facts"].update(more=1),
        lambda plain: plain["state"]["engine"].pop("merges"),
        lambda plain: plain["state"].update(boundary={"task_index": 0}),
        lambda plain: plain.update(position="many"),
    ],
)
def test_a_text_of_any_content_under_a_digest_that_holds_is_refused(change: Any, tmp_path: Path):
    with pytest.raises(CheckpointError, match="is no checkpoint that this program has written"):
        read_header(forged(tmp_path, change))


def test_text_that_is_no_json_is_refused(tmp_path: Path):
    text = b"fedknow-ray checkpoint 4\n" + b"[" * 100_000 + b"\n"
    (tmp_path / "a.ckpt").write_bytes(text + sha256(text).hexdigest().encode() + b"\n")
    with pytest.raises(CheckpointError, match="is no checkpoint that this program has written"):
        read_header(tmp_path / "a.ckpt")


DIE = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_checkpoint_file as here

def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[3] == "blobs":
    here.ObjectFolder.put = killed
else:
    os.replace = killed
here.write_small(Path(sys.argv[2]), 2)
"""


@pytest.mark.program
@pytest.mark.parametrize("when", ["blobs", "text"])
def test_a_kill_while_saving_leaves_the_old_checkpoint(when: str, tmp_path: Path):
    write_small(tmp_path / "a.ckpt")
    command = [sys.executable, "-c", DIE, str(Path(__file__).parent), str(tmp_path / "a.ckpt"), when]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert check(tmp_path / "a.ckpt").header.position == 1


def test_a_full_disk_while_saving_is_told_and_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_small(tmp_path / "a.ckpt")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", refuse)
        with pytest.raises(UserError, match=r"cannot write .*: No space left on device"):
            write_small(tmp_path / "a.ckpt", 2)
    assert check(tmp_path / "a.ckpt").header.position == 1
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_checkpoint_needs_nothing_but_its_folder(tmp_path: Path):
    write_small(tmp_path / "here" / "a.ckpt")
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert check(tmp_path / "there" / "a.ckpt").header.position == 1
