"""How many events a second the engine of virtual time takes, with no training behind it, and the memory of a client.

    python benchmarks/engine.py [--clients 1000] [--json]

An event is the end of a visit's download, computing or upload: three of a training visit, two of the end of a task, as
nothing is lost here. They are counted in what is told, not in the engine: on links of their own it foresees a visit to
its end and has one event of its own for all three. The visits' prices are made up, since it is the engine that is
measured; a method's plan comes on top.
"""

from __future__ import annotations

import argparse
import json
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

from fedknow_ray.federation.asynchronous import FedBuff, Pace
from fedknow_ray.federation.course import Course
from fedknow_ray.federation.decisions import Policy
from fedknow_ray.federation.engine import Engine
from fedknow_ray.federation.flight import Flight
from fedknow_ray.federation.ledger import PricedVisit
from fedknow_ray.federation.policies import RoundRules, Rounds
from fedknow_ray.federation.selection import Uniform
from fedknow_ray.federation.steps import Closed
from fedknow_ray.federation.traffic import Conditions
from fedknow_ray.federation.visit import VisitKind, VisitOrder
from fedknow_ray.methods.method import Plan
from fedknow_ray.simulation.availability import AlwaysOn
from fedknow_ray.simulation.device_library import DeviceLibrary
from fedknow_ray.simulation.link import Link
from fedknow_ray.simulation.network import Network
from fedknow_ray.simulation.work import Work

PAYLOAD_BYTES = 100_000


@dataclass(frozen=True)
class StubMethod:
    """A method that federates and does nothing else."""

    federated: bool = True
    refines: bool = False


class StubLedger:
    """Prices made up: client c computes for 1 + (7919 c mod 1000) / 1000 s, so that few visits end together."""

    method = StubMethod()

    def __init__(self) -> None:
        self._device = DeviceLibrary().get("jetson-nano")
        self._plan = Plan(Work.none(), 0)

    def price(self, order: VisitOrder) -> PricedVisit:
        """Return a visit of the client's own length."""
        seconds = 1.0 + order.client_id * 7919 % 1000 / 1000
        upload_bytes = PAYLOAD_BYTES if order.kind is VisitKind.TRAIN else 0
        return PricedVisit(order, self._device, self._plan, seconds, PAYLOAD_BYTES, upload_bytes)


def events_of(flight: Flight) -> int:
    """Return how many phases a visit has come through."""
    return bool(flight.download_bytes) + flight.arrived + bool(flight.upload_bytes)


def run(clients: int, rounds: int, cohort: int, make: Callable[[Uniform], Policy], *, shared: bool) -> dict[str, float]:
    """Tell one task and its end; return events, processor seconds, and the peak of memory a client."""
    images = ((240,),) * clients
    course = Course(seed=1, tasks=1, rounds_per_task=rounds, classes=10, images=images, test_images=images)
    links = [Link(1e6, 1e6, 0.02)] * clients
    server = 1e7 if shared else None

    def network(now_s: float) -> Network[Flight]:
        return Network(links, seed=1, server_uplink_bytes_per_s=server, server_downlink_bytes_per_s=server, now_s=now_s)

    policy = make(Uniform(availability=AlwaysOn(), seed=1))
    engine = Engine(course, StubLedger(), policy, Conditions(network))  # type: ignore[arg-type]
    start_s = time.process_time()
    flights = [flight for step in engine.tell() if isinstance(step, Closed) for flight in step.flights]
    seconds = time.process_time() - start_s
    events = sum(map(events_of, flights))
    return {"events": events, "visits": len(flights), "cpu_s": seconds, "virtual_s": engine.now_s}


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    clients = options.clients

    def synchronous(cohort: int, rounds: int) -> Callable[[Uniform], Policy]:
        return lambda selection: Rounds(RoundRules(rounds, cohort, cohort), selection)

    def fedbuff(concurrency: int, visits: int) -> Callable[[Uniform], Policy]:
        return lambda selection: FedBuff(selection, Pace(visits, concurrency, 0.5), buffer_size=10, server_lr=1.0)

    cases = {
        "synchronous, private links, all clients a round": (20, synchronous(clients, 20), False),
        "synchronous, private links, 100 clients a round": (100, synchronous(100, 100), False),
        "FedBuff, private links, 100 at once": (1, fedbuff(100, 10_000), False),
        "synchronous, shared link, 100 clients a round": (30, synchronous(100, 30), True),
        "FedBuff, shared link, 100 at once": (1, fedbuff(100, 3_000), True),
    }
    results = {}
    for name, (rounds, make, shared) in cases.items():
        results[name] = run(clients, rounds, clients, make, shared=shared)
    tracemalloc.start()
    run(clients, 1, clients, synchronous(clients, 1), shared=False)
    bytes_a_client = tracemalloc.get_traced_memory()[1] / clients
    tracemalloc.stop()
    if options.json:
        print(json.dumps({"cases": results, "peak_bytes_per_client": bytes_a_client}))
        return
    for name, result in results.items():
        print(f"{name:50} {result['events']:8.0f} events {result['events'] / result['cpu_s']:10,.0f} /s")
    print(f"peak memory of the engine, a client: {bytes_a_client:,.0f} bytes")


if __name__ == "__main__":
    main()
