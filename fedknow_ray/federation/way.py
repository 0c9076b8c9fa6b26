"""What a visit takes on links of its own: all of it follows from its start, by arithmetic.

    start -- download_s --> download_end_s -- compute_s --> compute_end_s -- upload_s --> end_s

Where nothing is shared or measured that is what will happen, unless the visit is lost on the way.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from fedknow_ray.federation.ledger import PricedVisit
from fedknow_ray.federation.visit import VisitOrder
from fedknow_ray.simulation.link import Direction
from fedknow_ray.simulation.network import Network, StreamPosition

K = TypeVar("K")


class Way(NamedTuple):
    """When a visit is through with its phases, and the seconds of its transfers; of an empty one, 0."""

    download_end_s: float
    compute_end_s: float
    end_s: float
    download_s: float
    upload_s: float


def foresee(network: Network[K], visit: PricedVisit, start_s: float) -> Way:
    """Return the way of a visit that begins at a time, if nobody shares its links and nothing happens to it."""
    order = visit.order
    client_id, position = order.facts.client_id, position_of(order)
    download_end_s = compute_end_s = start_s
    download_s = upload_s = 0.0
    if visit.download_bytes:
        terms = network.terms(client_id, Direction.TO_CLIENT, visit.download_bytes, position)
        download_end_s, download_s = terms.alone(start_s)
    end_s = compute_end_s = download_end_s + visit.compute_s
    if visit.upload_bytes:
        terms = network.terms(client_id, Direction.TO_SERVER, visit.upload_bytes, position)
        end_s, upload_s = terms.alone(compute_end_s)
    return Way(download_end_s, compute_end_s, end_s, download_s, upload_s)


def position_of(order: VisitOrder) -> StreamPosition:
    """Return where the transfers of a visit belong in a run."""
    facts = order.facts
    return StreamPosition(facts.task_index, facts.round_index, str(order.kind))
