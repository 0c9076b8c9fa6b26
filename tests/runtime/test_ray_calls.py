"""What an answer of Ray's that is none means: something was lost, or the code that ran is at fault."""

from __future__ import annotations

import pytest
from ray.exceptions import (
    ActorDiedError,
    GetTimeoutError,
    ObjectLostError,
    RayTaskError,
)

from fedknow_ray.errors import DataError, WorkerError, WorkerLost
from fedknow_ray.runtime.ray_calls import get, is_there

LOST_ARGUMENT = ObjectLostError("0" * 56, b"address", "call site")


def raising(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(refs: object, timeout: float) -> None:
        raise error

    monkeypatch.setattr("fedknow_ray.runtime.ray_calls.ray.get", fail)


@pytest.mark.parametrize(
    "error",
    [
        ActorDiedError(),
        GetTimeoutError("no answer"),
        LOST_ARGUMENT,
        # an actor that is asked about an update that was on a node that is gone
        RayTaskError("refusal", "traceback", LOST_ARGUMENT),
        RayTaskError("visit", "traceback", MemoryError("too much")),
        RayTaskError("visit", "traceback", OSError(28, "No space left on device")),
    ],
    ids=["dead", "late", "lost", "lost argument", "no memory", "no disk"],
)
def test_what_is_lost_can_be_made_good(error: Exception, monkeypatch: pytest.MonkeyPatch):
    raising(monkeypatch, error)
    with pytest.raises(WorkerLost, match=r"^the door"):
        get(None, 1.0, "the door")
    assert not is_there(None, 1.0)


def test_code_that_raises_is_at_fault(monkeypatch: pytest.MonkeyPatch):
    raising(monkeypatch, RayTaskError("visit", "the traceback", KeyError("x")))
    with pytest.raises(WorkerError, match="the visit failed in its actor") as raised:
        get(None, 1.0, "the visit")
    assert not isinstance(raised.value, WorkerLost)


def test_a_mistake_of_the_users_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch):
    raising(monkeypatch, RayTaskError("visit", "the traceback", DataError("too few images")))
    with pytest.raises(DataError, match=r"^too few images$"):
        get(None, 1.0, "the visit")
