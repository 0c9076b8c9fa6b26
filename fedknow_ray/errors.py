"""The errors that fedknow_ray raises on purpose, and the exit status that each one means.

    FedKnowError                  1   our own fault, or a worker that died of one
      WorkerError                 1   a client or server actor failed
        WorkerLost                1   an actor or its node is gone, and nothing has taken its place
      UserError                   2   something that the user can put right
        ConfigError               2   one or more faults in a config, all of them at once
        UnknownNameError          2   a device, method, model or data set that does not exist
        DataError                 2   data that is missing, broken or too small
        RunDirectoryError         2   a run directory that cannot be made, or is not one
        DivergenceError           2   training whose loss is no finite number any more
      PlacementError              3   the cluster cannot host the fleet
      GateError                   4   nothing went wrong, and a result is below the limit that was asked for

A message says what, the value, the limit and what to do about it; the command line prints it without a traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches


class FedKnowError(Exception):
    """Base of every deliberate error of the package."""

    exit_status = 1


class WorkerError(FedKnowError):
    """A client or server actor failed; the message names the client and what it did."""


class WorkerLost(WorkerError):
    """An actor, its node or what it held is gone, or gives no answer: not the fault of the code that ran there."""


class UserError(FedKnowError):
    """A mistake of the user's; told in one clear message without a traceback."""

    exit_status = 2


class DataError(UserError):
    """Data that is missing, broken, or too small for the scenario."""


class RunDirectoryError(UserError):
    """A run directory that cannot be created, or a folder that is not a finished run."""


class DivergenceError(UserError, ValueError):
    """Training whose loss or gradient is no finite number any more: the config asks for too large steps."""

    def __str__(self) -> str:
        return f"{super().__str__()}: training has diverged; lower training.optimizer.lr"


class UnknownNameError(UserError):
    """A name that no registry holds; the message suggests the nearest one."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, tuple(known)
        super().__init__(f"unknown {kind} {name!r}{did_you_mean(name, self.known)}")

    def __reduce__(self) -> tuple[type[UnknownNameError], tuple[str, str, tuple[str, ...]]]:
        return type(self), (self.kind, self.name, self.known)


class PlacementError(FedKnowError):
    """The cluster cannot host the fleet; the message holds the table of needs and offers."""

    exit_status = 3


class GateError(FedKnowError):
    """A verdict, not a fault: a result is below the limit that the user has set; the message names what is."""

    exit_status = 4


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong in a config: where it was said, which key, and what to do.

    `where` is "file:line" or the command-line option that set the key.
    """

    where: str
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.key}: {self.message}" if self.key else f"{self.where}: {self.message}"


class ConfigError(UserError):
    """All the faults of a config at once."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        if not faults:
            raise ValueError("a ConfigError needs at least one fault")
        self.faults = tuple(faults)
        many = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__("\n".join([f"the config has {many}:", *(f"  {fault}" for fault in faults)]))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[Fault, ...]]]:
        return type(self), (self.faults,)


def first_faults(faults: Sequence[Fault], where: str, most: int = 20) -> list[Fault]:
    """Return so many of a broken file's faults at most, and how many more there are; *where* is the file."""
    if len(faults) <= most:
        return list(faults)
    return [*faults[:most], Fault(where, "", f"and {len(faults) - most} faults more")]


def first_few(ids: Sequence[int], most: int = 5) -> str:
    """Return the first of some ids for a message, with dots where there are more.

    >>> first_few([1, 2]), first_few(range(9))
    ('1, 2', '0, 1, 2, 3, 4, ...')
    """
    return ", ".join(map(str, ids[:most])) + (", ..." if len(ids) > most else "")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the tail of an "unknown name" message: the nearest known name, or all of them.

    >>> did_you_mean("fedknw", ["fedavg", "fedknow"])
    "; did you mean 'fedknow'?"
    >>> did_you_mean("x", ["b", "a"])
    '; known: a, b'
    """
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(names)}" if names else "; none is known"
