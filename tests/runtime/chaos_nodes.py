"""A Ray cluster of several nodes in this process, whose nodes can be lost and others join."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from processes import VISITING, descendants, end, titled

#: Those that `fedknow-ray cluster render` writes: a dead node is noticed after some 3 s, one that hangs after 9.
HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}
OF_TINY = {"device:jetson-nano": 4.0, "device:raspberry-pi-4-4gb": 4.0}


class Nodes:
    """A head with one processor, and *workers* nodes with *resources* each; by default each has room for all clients.

    It has to be made in the main thread, and its nodes are lost there, since Ray sets signal handlers for each.
    """

    def __init__(
        self,
        folder: Path,
        workers: int = 2,
        resources: Mapping[str, float] = OF_TINY,
        *,
        object_store_memory: int = 80 * 2**20,
        health_checks: Mapping[str, int] = HEALTH_CHECKS,
    ) -> None:
        from ray.cluster_utils import Cluster

        #: Processes of nodes that were lost. An actor of Ray 2.60 whose raylet is killed while it works may live on,
        #: ours or another's; where a machine goes, all of it goes.
        self.of_lost_nodes: set[int] = set()
        self._before = descendants(os.getpid())
        self._size = {"num_cpus": 1, "object_store_memory": object_store_memory}
        self._resources = dict(resources)
        head = {"include_dashboard": False, "_system_config": dict(health_checks), "temp_dir": str(folder)}
        self._cluster: Any = Cluster(initialize_head=True, head_node_args={**head, **self._size})
        self._workers = [self._add() for _ in range(workers)]

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def visiting(self) -> list[Any]:
        """The nodes whose clients make a visit."""
        return [node for node in self._workers if titled(VISITING, descendants(raylet_of(node)))]

    def lose_one_that_visits(self, rng: random.Random, how: signal.Signals) -> bool:
        """Take such a node down; return whether there was one."""
        hosts = self.visiting()
        if not hosts:
            return False
        node = rng.choice(hosts)
        self.of_lost_nodes |= descendants(raylet_of(node))
        os.kill(raylet_of(node), how)
        self._workers.remove(node)
        self._cluster.worker_nodes.discard(node)
        return True

    def join_one(self) -> None:
        """Have another node join."""
        self._workers.append(self._add())

    def lose_head(self) -> None:
        """Take the head down: its control store and its raylet."""
        for name in ("gcs_server", "raylet"):
            os.kill(int(self._cluster.head_node.all_processes[name][0].process.pid), signal.SIGKILL)

    def close(self) -> set[int]:
        """End the cluster and what is left of lost nodes; return all processes that it had."""
        everything = descendants(os.getpid()) - self._before
        with suppress(Exception):
            self._cluster.shutdown()
        end(everything)
        return everything

    def _add(self) -> Any:
        return self._cluster.add_node(resources=self._resources, **self._size)


def raylet_of(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)
