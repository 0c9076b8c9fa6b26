"""Waiting for answers from Ray, with a deadline each, and what their failures mean here.

lost      an actor, its node or an object is gone, or the host failed it: somebody else can do the same again
broken    the code that ran there raised: it would do so again, and the run ends
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from fedknow_ray.errors import UserError, WorkerError, WorkerLost

#: What an exception in an actor says of its host and not of the code that ran: no memory, no disk, no socket.
OF_THE_HOST = (MemoryError, OSError)


def get(refs: Any, timeout_s: float, what: str) -> Any:
    """Return what references stand for; *what* names in messages what is waited for.

    Raises:
        WorkerLost: if an actor or a node died, or gave no answer in so many seconds.
        WorkerError: if the code in the actor raised.
        UserError: as the code in the actor raised it.
    """
    try:
        return ray.get(refs, timeout=timeout_s)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from error
        if isinstance(error.cause, OF_THE_HOST):
            raise WorkerLost(f"{what} failed for want of something on its host: {error.cause!r}") from error
        if isinstance(error.cause, RayError) and not isinstance(error.cause, RayTaskError):
            # not its own code: what it was to work on has gone with a node
            raise WorkerLost(f"{what}: {_first_line(error.cause)}") from error
        raise WorkerError(f"{what} failed in its actor:\n{error}") from error
    except GetTimeoutError as error:
        raise WorkerLost(f"{what} gave no answer within {timeout_s:.0f} s") from error
    except RayError as error:
        raise WorkerLost(f"{what}: {_first_line(error)}") from error


def is_there(ref: Any, timeout_s: float) -> bool:
    """Return whether what a reference stands for is made, and can be fetched."""
    try:
        ray.get(ref, timeout=timeout_s)
    except RayError:
        return False
    return True


def answers(ask: Callable[[], Any], timeout_s: float) -> bool:
    """Return whether an actor answers a call."""
    return is_there(ask(), timeout_s)


def _first_line(error: RayError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no more is known'}"
