"""Where a run is made: in this process, on a Ray of its own, or on a cluster that is there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from fedknow_ray.errors import UserError
from fedknow_ray.experiment.assembly import Parts
from fedknow_ray.experiment.carrying import PlacedExecutor
from fedknow_ray.runtime.care import Care, Sizes

Backend = Literal["ray", "local"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run is made: the backend, and the address of a cluster that is not its own.

    *insecure*: such a cluster may let in whoever has no token.

    Raises:
        UserError: if these do not go together.
    """

    backend: Backend = "ray"
    address: str | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        if self.backend == "local" and self.address is not None:
            raise UserError("--address goes with --backend ray; the local backend uses no cluster")
        if self.insecure and self.address is None:
            raise UserError("--insecure goes with --address; a Ray of our own is always locked with a token")


@contextmanager
def open_executor(parts: Parts, place: Place, care: Care | None = None) -> Iterator[PlacedExecutor]:
    """Yield an executor for the parts of a run; with "ray" and no address, on a Ray that ends with the block.

    *care* is what lost actors are made good with; without it a lost actor ends the run.

    Raises:
        PlacementError: if the nodes cannot hold the fleet.
    """
    if place.backend == "local":
        from fedknow_ray.runtime.local import local_executor

        with local_executor(parts.assembly, parts.dataset, parts.start, parts.broadcast) as local:
            yield local
        return
    from fedknow_ray.runtime.ray_session import joined_ray, own_ray

    address = place.address
    session: Callable[[], Any] = (
        (lambda: own_ray(parts.assembly.config.devices, len(os.sched_getaffinity(0))))
        if address is None
        else (lambda: joined_ray(address, insecure=place.insecure))
    )
    with session():
        # ray_backend imports ray, which reads its environment when it is imported: the session comes first
        from fedknow_ray.runtime.ray_backend import ray_executor

        sizes = Sizes(parts.client_bytes, parts.visit_bytes)
        with ray_executor(parts.assembly, parts.dataset, parts.start, parts.broadcast, sizes, care) as remote:
            yield remote
