"""Processes that make one run after the other, each on the local backend: what `compare` keeps the cores busy with.

A worker is told a run by one line of JSON on its standard input and answers with one line when the run has ended. It
dies with the program: the end of its standard input means that nobody waits for the run any more. Ctrl-C does not
reach it, since it has a process group of its own; the program ends it with SIGTERM, upon which a run closes its tables
as an interrupted one.
"""

from __future__ import annotations

import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any, Protocol

from fedknow_ray.errors import FedKnowError
from fedknow_ray.federation.boundary import Boundary
from fedknow_ray.runtime.allocator import ALLOCATOR

_PATIENCE_S = 20.0
_START = "from fedknow_ray.experiment.workers import serve; serve()"


@dataclass(frozen=True, slots=True)
class RunOrder:
    """A run to make: its config and overrides, its directory, and the saved states that it starts from and leaves."""

    config: str
    overrides: tuple[str, ...]
    out: str
    start_from: str | None = None
    save_at: tuple[Boundary, ...] = ()
    checkpoints: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run has not finished: a message for the user, or a traceback where it *is_ours*.

    *refused_start*: the saved state was lost or broken, or was of another past; from another start the run may do.
    """

    message: str
    is_ours: bool = False
    refused_start: bool = False


class Workers(Protocol):
    """Makes runs, some at once."""

    def has_room(self) -> bool:
        """Return whether another run can start now."""
        ...

    def start(self, order: RunOrder) -> None:
        """Start a run."""
        ...

    def wait(self, timeout_s: float | None) -> list[tuple[RunOrder, Failure | None]]:
        """Return the runs that have ended, after waiting for the first of them so long at most; None is for ever."""
        ...


class ProcessWorkers:
    """As many processes as runs may be made at once, started when they are needed; ends them as a context manager."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._idle: list[subprocess.Popen[str]] = []
        self._busy: dict[subprocess.Popen[str], RunOrder] = {}
        self._answers = selectors.DefaultSelector()

    def __enter__(self) -> ProcessWorkers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End all processes; a run under way is closed as an interrupted one."""
        processes = [*self._idle, *self._busy]
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                # not for ever: an interrupt in the middle of an earlier poll may have kept Popen's own lock
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_PATIENCE_S)
            _close(process)
        self._answers.close()

    def has_room(self) -> bool:
        """Return whether another run can start now."""
        return len(self._busy) < self._jobs

    def start(self, order: RunOrder) -> None:
        """Give the run to an idle process, or to a new one."""
        self._drop_dead(self._answers.select(0))
        process = self._idle.pop() if self._idle else self._new_process()
        self._busy[process] = order
        # if it has died, the end of its answers will say so
        with suppress(BrokenPipeError):
            _pipe(process.stdin).write(json.dumps(asdict(order)) + "\n")
            _pipe(process.stdin).flush()

    def wait(self, timeout_s: float | None) -> list[tuple[RunOrder, Failure | None]]:
        """Return the runs that have ended, after waiting for the first of them so long at most."""
        ready = self._answers.select(timeout_s)
        self._drop_dead(ready)
        return [self._take_answer(key.data) for key, _ in ready if key.data in self._busy]

    def pids(self) -> list[int]:
        """Return the ids of the processes."""
        return [process.pid for process in (*self._idle, *self._busy)]

    def _new_process(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
            env={**ALLOCATOR, **os.environ},
        )
        self._answers.register(_pipe(process.stdout), selectors.EVENT_READ, process)
        return process

    def _drop_dead(self, ready: Sequence[tuple[selectors.SelectorKey, int]]) -> None:
        """Forget processes that have died with no run to make, as one that the kernel ended for want of memory.

        One that has nothing to answer and is ready has come to the end of its answers. `Popen.poll` would say so too,
        but an interrupt in the middle of it can keep its lock, on which every later wait stands for ever.
        """
        for process in [key.data for key, _ in ready if key.data in self._idle]:
            self._answers.unregister(_pipe(process.stdout))
            self._idle.remove(process)
            process.wait()
            _close(process)

    def _take_answer(self, process: subprocess.Popen[str]) -> tuple[RunOrder, Failure | None]:
        order = self._busy.pop(process)
        line = _pipe(process.stdout).readline()
        if line.endswith("\n"):
            self._idle.append(process)
            answer = json.loads(line)
            return order, None if answer is None else Failure(**answer)
        self._answers.unregister(_pipe(process.stdout))
        status = process.wait()
        _close(process)
        return order, Failure(f"its process died ({_death(status)})", is_ours=True)


def serve() -> None:
    """Be a worker: make the runs that standard input names until it ends."""
    signal.signal(signal.SIGTERM, _interrupt)
    # what a library prints must not be taken for an answer
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    orders: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_orders, args=(orders,), daemon=True).start()
    try:
        while True:
            failure = make_run(_read_order(orders.get()))
            answers.write(json.dumps(None if failure is None else asdict(failure)) + "\n")
            answers.flush()
    except KeyboardInterrupt:
        # the run has closed its tables; an ordinary exit would wait for the thread that reads standard input
        os._exit(128 + signal.SIGTERM)


def make_run(order: RunOrder) -> Failure | None:
    """Make a run in this process; returns why it has not finished, or None if it has."""
    # a worker imports torch while the program goes on, and a program that only refuses a grid never does
    from fedknow_ray.experiment.checkpoint_file import CheckpointError
    from fedknow_ray.experiment.run import execute

    try:
        execute(
            order.config,
            order.overrides,
            backend="local",
            out=order.out,
            start_from=None if order.start_from is None else Path(order.start_from),
            save_at=order.save_at,
            checkpoints=None if order.checkpoints is None else Path(order.checkpoints),
            # whoever ordered it makes it again if it is lost
            durable=False,
        )
    except CheckpointError as error:
        return Failure(str(error), refused_start=order.start_from is not None)
    except FedKnowError as error:
        return Failure(traceback.format_exc() if error.exit_status == 1 else str(error), error.exit_status == 1)
    except Exception:
        return Failure(traceback.format_exc(), is_ours=True)
    return None


def _read_orders(orders: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        orders.put(line)
    # nobody waits for the run any more, and its directory may be made anew at once: every file in it is whole
    os._exit(0)


def _read_order(line: str) -> RunOrder:
    plain: dict[str, Any] = json.loads(line)
    boundaries = tuple(Boundary(**boundary) for boundary in plain["save_at"])
    return RunOrder(**{**plain, "overrides": tuple(plain["overrides"]), "save_at": boundaries})


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _death(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"


def _pipe(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise ValueError("the process was started without this pipe")
    return stream


def _close(process: subprocess.Popen[str]) -> None:
    for stream in (process.stdin, process.stdout):
        # an order that a dead process never read breaks the pipe
        with suppress(BrokenPipeError):
            _pipe(stream).close()
