"""The section `policy`: who visits when, and whose updates make the next broadcast.

Every policy has the same budget of training visits a task: rounds_per_task times the clients of a round.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, Strict

from fedknow_ray.config.fields import Cohort, Count, DurationS, Fraction, Frozen, NotNegative, Positive

SelectionName: TypeAlias = Literal["uniform", "available", "longest_waiting"]
"""uniform: among all that take part, on or not; available: among those that are on, and stay on for the visit if any
do; longest_waiting: among those that are on, who has waited longest."""


class SynchronousPolicy(Frozen):
    """Each round waits for all of its clients."""

    name: Literal["synchronous"] = "synchronous"
    selection: SelectionName = "uniform"
    cohorts: Annotated[tuple[Cohort, ...], Field(min_length=1)] | None = None
    """The client ids of each round, used again from the front when they run out, whatever training.client_fraction
    says; null draws that share of the clients at random."""


class DeadlinePolicy(Frozen):
    """More clients are started than a round needs, and it ends with the last update that it needs, or at a deadline."""

    name: Literal["deadline"] = "deadline"
    deadline_s: DurationS | None = None
    """From the start of the round; null waits for the updates that it needs."""
    over_selection: Annotated[float, Strict(), Field(ge=1, allow_inf_nan=False)] = 1.3
    """Clients that are started, for each one that is needed; rounded up."""
    late: Literal["drop", "keep"] = "drop"
    """drop: visits that are late are stopped; keep: they go on, and count in the round in which they arrive."""
    selection: SelectionName = "uniform"

    def started(self, needed: int, clients: int) -> int:
        """Return how many of the clients a round starts that needs so many."""
        # 10 x 1.1 is a little more than 11 in float64
        return min(clients, math.ceil(needed * self.over_selection - 1e-9))


class FedBuffPolicy(Frozen):
    """Clients train without rounds; the server merges each buffer_size updates, discounted by staleness."""

    name: Literal["fedbuff"] = "fedbuff"
    buffer_size: Count = 10
    concurrency: Count | None = None
    """Clients that train at once; null is as many as a synchronous round has."""
    staleness_exponent: NotNegative = 0.5
    """a of the discount (1 + staleness)^-a."""
    server_lr: Positive = 1.0
    selection: SelectionName = "available"


class FedAsyncPolicy(Frozen):
    """Clients train without rounds; each update is mixed into the global model at once, discounted by staleness."""

    name: Literal["fedasync"] = "fedasync"
    mixing: Fraction = 0.6
    """Weight of an update that is not stale."""
    concurrency: Count | None = None
    """Clients that train at once; null is as many as a synchronous round has."""
    staleness_exponent: NotNegative = 0.5
    """a of the discount (1 + staleness)^-a."""
    selection: SelectionName = "available"


PolicyConfig: TypeAlias = Annotated[
    SynchronousPolicy | DeadlinePolicy | FedBuffPolicy | FedAsyncPolicy, Field(discriminator="name")
]
POLICY_NAMES = ("synchronous", "deadline", "fedbuff", "fedasync")
