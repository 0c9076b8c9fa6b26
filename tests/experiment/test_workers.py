"""The processes of a comparison: they make runs, say why one failed, and do not outlive the program."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from small import TEXT, write_config

from fedknow_ray.experiment.checkpoint import checkpoint_path
from fedknow_ray.experiment.workers import Failure, ProcessWorkers, RunOrder, make_run
from fedknow_ray.federation.boundary import Boundary
from fedknow_ray.results.run import load

pytestmark = pytest.mark.program

LONG = TEXT.replace("rounds_per_task: 1", "rounds_per_task: 2000")


def order(folder: Path, name: str = "run", *overrides: str, text: str = TEXT) -> RunOrder:
    return RunOrder(config=str(write_config(folder, text)), overrides=overrides, out=str(folder / name))


def wait_for_rounds(workers: ProcessWorkers, under_way: RunOrder) -> None:
    for _ in range(600):
        assert workers.wait(0.1) == []
        if Path(under_way.out, "rounds.parquet").exists():
            return
    pytest.fail("the run made no round within a minute")


def test_a_process_makes_one_run_after_the_other(tmp_path: Path):
    first, second = order(tmp_path, "first"), order(tmp_path, "second", "training.optimizer={name: sgd, lr: 1e30}")
    with ProcessWorkers(1) as workers:
        workers.start(first)
        assert not workers.has_room()
        assert workers.wait(60) == [(first, None)]
        workers.start(second)
        [(ended, failure)] = workers.wait(60)
        assert workers.wait(0) == []
        assert workers.has_room()
    assert load(first.out).summary is not None
    assert ended == second
    assert failure is not None
    assert "training has diverged" in failure.message


def test_a_process_that_dies_fails_its_run_alone(tmp_path: Path):
    with ProcessWorkers(1) as workers:
        workers.start(order(tmp_path, "long", text=LONG))
        [process] = workers.pids()
        wait_for_rounds(workers, order(tmp_path, "long"))
        os.kill(process, signal.SIGKILL)
        [(_, failure)] = workers.wait(60)
        assert failure == Failure("its process died (signal SIGKILL)", is_ours=True)
        after = order(tmp_path, "after")
        workers.start(after)
        assert workers.wait(60) == [(after, None)]


def kill_idle(workers: ProcessWorkers, first: RunOrder) -> int:
    """Have a process make a run, and kill it when it has none left; returns its id."""
    workers.start(first)
    assert workers.wait(60) == [(first, None)]
    [process] = workers.pids()
    os.kill(process, signal.SIGKILL)
    return process


def test_an_idle_process_that_dies_is_replaced(tmp_path: Path):
    second = order(tmp_path, "second")
    with ProcessWorkers(2) as workers:
        kill_idle(workers, order(tmp_path, "first"))
        assert workers.wait(10) == []
        assert workers.pids() == []
        workers.start(second)
        assert workers.wait(60) == [(second, None)]


def test_a_run_is_not_given_to_an_idle_process_that_has_died(tmp_path: Path):
    second = order(tmp_path, "second")
    with ProcessWorkers(1) as workers:
        process = kill_idle(workers, order(tmp_path, "first"))
        os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
        workers.start(second)
        assert workers.wait(60) == [(second, None)]


def test_a_run_that_is_stopped_is_closed_as_an_interrupted_one(tmp_path: Path):
    with ProcessWorkers(1) as workers:
        under_way = order(tmp_path, text=LONG)
        workers.start(under_way)
        wait_for_rounds(workers, under_way)
    run = load(under_way.out)
    assert run.summary is None
    assert run.events["kind"].to_pylist()[-1] == "interrupted"


def test_a_process_dies_with_the_program(tmp_path: Path):
    """However the program ends: here it is killed and can tell nobody."""
    code = (
        "import sys; from fedknow_ray.experiment.workers import ProcessWorkers, RunOrder\n"
        "workers = ProcessWorkers(1); workers.start(RunOrder(sys.argv[1], (), sys.argv[2]))\n"
        "print(*workers.pids(), flush=True); workers.wait(None)"
    )
    under_way = order(tmp_path, text=LONG)
    program = subprocess.Popen(
        [sys.executable, "-c", code, under_way.config, under_way.out], stdout=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    worker = os.pidfd_open(int(program.stdout.readline()))
    program.kill()
    program.wait()
    program.stdout.close()
    assert wait_until_dead(worker)


def wait_until_dead(process: int) -> bool:
    ended, _, _ = select.select([process], [], [], 30)
    os.close(process)
    return bool(ended)


def test_a_state_that_cannot_be_read_is_told_apart_from_other_faults(tmp_path: Path):
    lost = RunOrder(
        config=str(write_config(tmp_path)), overrides=(), out=str(tmp_path / "run"), start_from=str(tmp_path / "x.ckpt")
    )
    failure = make_run(lost)
    assert failure is not None
    assert failure.refused_start
    assert not (tmp_path / "run").exists()


def test_a_folder_for_states_that_cannot_be_made_is_not_the_fault_of_the_state_to_start_from(tmp_path: Path):
    config, past, later = str(write_config(tmp_path)), Boundary(0, True), Boundary(1, False)
    first = RunOrder(config, (), str(tmp_path / "first"), save_at=(past,), checkpoints=str(tmp_path))
    assert make_run(first) is None
    (tmp_path / "file").touch()
    failure = make_run(
        RunOrder(
            config,
            (),
            str(tmp_path / "second"),
            start_from=str(checkpoint_path(tmp_path, past)),
            save_at=(later,),
            checkpoints=str(tmp_path / "file" / "states"),
        )
    )
    assert failure == Failure(f"cannot make the folder of checkpoints {tmp_path / 'file' / 'states'}: Not a directory")
