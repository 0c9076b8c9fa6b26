"""Prints how many events a second the network takes: the table of docs/links.md.

python benchmarks/links.py [--flows 100,1000] [--events 4000]

So many transfers are in flight all the time: when one ends the next begins. A beginning is an event, and so is an end.
Processor time, not the wall's: what else runs on the machine counts less.
"""

from __future__ import annotations

import argparse
import time

from fedknow_ray.seeding import stream
from fedknow_ray.simulation.link import Direction, Link
from fedknow_ray.simulation.network import Network, StreamPosition

POSITION = StreamPosition(0, 0, "train")
#: Kinds of links among the clients; None: all different.
CASES = {"own links": 1, "shared, 1 kind of link": 1, "shared, 5 kinds": 5, "shared, all links different": None}
SHARE = 1 / 3
"""The server's rate, as a share of what the slowest kind of client asks for together."""


def events_per_s(flows: int, kinds: int | None, *, shared: bool, events: int) -> float:
    """Return events a second of processor time with so many transfers in flight."""
    kinds = kinds or flows
    links = [Link(1e6, 1e6 * (1 + client % kinds / kinds), 0.02) for client in range(flows)]
    network = Network[int](links, seed=1, server_uplink_bytes_per_s=SHARE * 1e6 * flows if shared else None)
    sizes = stream(1, "sizes").integers(10**5, 10**7, flows + events).tolist()
    for client in range(flows):
        network.begin(0.0, client, client, Direction.TO_CLIENT, sizes.pop(), POSITION)
    start_s = time.process_time()
    for _ in range(events // 2):
        first = network.next_end()
        assert first is not None
        now_s, client = first
        network.end(now_s)
        network.begin(now_s, client, client, Direction.TO_CLIENT, sizes.pop(), POSITION)
    return events / (time.process_time() - start_s)


def main() -> None:
    """Print a row for each number of transfers in flight."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flows", default="100,1000", help="transfers in flight, separated by commas")
    parser.add_argument("--events", type=int, default=4000)
    arguments = parser.parse_args()
    print("| transfers in flight |", " | ".join(CASES), "|")
    print("|---" * (1 + len(CASES)) + "|")
    for flows in map(int, arguments.flows.split(",")):
        rates = [
            events_per_s(flows, kinds, shared=name != "own links", events=arguments.events)
            for name, kinds in CASES.items()
        ]
        print(f"| {flows:,} |", " | ".join(f"{rate:,.0f}" for rate in rates), "|")


if __name__ == "__main__":
    main()
