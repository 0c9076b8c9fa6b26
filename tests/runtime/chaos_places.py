"""Where a run that is disturbed is made: a Ray that the run starts itself, or a cluster with all nodes on this machine.

Each run is a process of its own, since it may be killed, and since `Cluster` sets signal handlers, which only a main
thread may do. All that either place leaves behind lies in one folder, which goes with it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from kin import Kin, parent

#: RAY.md, section 3: a node that died is noticed within about 5 s, and no slow one is taken for dead by mistake.
HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}
STORE_BYTES = 80 * 2**20


class Place(Protocol):
    """Where drivers find Ray."""

    #: What the program is told besides, and what is in its environment.
    options: tuple[str, ...]
    environment: Mapping[str, str]

    def close(self) -> None:
        """Leave nothing behind."""


class Nowhere:
    """No Ray: for drivers that do all themselves."""

    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = {}

    def close(self) -> None:
        """Leave nothing behind: there is nothing."""


class OwnRay:
    """Each driver starts a Ray of its own, in a folder that a killed one cannot delete."""

    options: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="fkc-", dir="/tmp"))
        self.environment: Mapping[str, str] = {"TMPDIR": str(self._folder)}

    def close(self) -> None:
        """Delete what killed drivers have left on the disk."""
        shutil.rmtree(self._folder, ignore_errors=True)


class EmulatedCluster:
    """A head for no clients, and nodes that are each a raylet of their own on this machine.

    *devices* how many clients of each kind a node has room for. To be made once in a process.
    """

    def __init__(self, devices: Mapping[str, int], nodes: int = 2, health_checks: Mapping[str, int] = HEALTH_CHECKS):
        self.environment: Mapping[str, str] = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
        }
        # Ray reads them when it is first imported
        os.environ.update(self.environment)
        os.environ.pop("RAY_ADDRESS", None)
        self._resources = {f"device:{device}": count for device, count in devices.items()}
        self._health_checks, self._size = dict(health_checks), nodes
        self._fallen: list[Any] = []
        self._open()

    def _open(self) -> None:
        from ray.cluster_utils import Cluster

        self._folder = Path(tempfile.mkdtemp(prefix="fkc-", dir="/tmp"))
        head = {"num_cpus": 1, "include_dashboard": False, "temp_dir": str(self._folder)}
        head |= {"object_store_memory": STORE_BYTES, "_system_config": self._health_checks}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.options = ("--address", str(self._cluster.address))
        self.nodes = [self.add() for _ in range(self._size)]

    def add(self) -> Any:
        """Have another node join."""
        return self._cluster.add_node(num_cpus=1, resources=self._resources, object_store_memory=STORE_BYTES)

    def node_of(self, actor_pid: int) -> Any | None:
        """Return the node whose raylet has started a process."""
        raylet = parent(actor_pid)
        return next((node for node in self.nodes if _raylet(node).pid == raylet), None)

    def strike(self, node: Any, sign: signal.Signals) -> int:
        """Kill or stop a node's raylet, and return its process."""
        process = _raylet(node)
        process.send_signal(sign)
        self.nodes.remove(node)
        self._cluster.worker_nodes.discard(node)
        if sign is signal.SIGKILL:
            # as long as it is a zombie its workers do not see that it is gone
            process.wait(10)
        self._fallen.append(node)
        return int(process.pid)

    def strike_head(self) -> int:
        """Kill the head: its raylet, and the store of all that the cluster knows."""
        raylet, gcs = _raylet(self._cluster.head_node), _process(self._cluster.head_node, "gcs_server")
        for process in (gcs, raylet):
            process.kill()
        for process in (gcs, raylet):
            process.wait(10)
        return int(raylet.pid)

    def pids(self) -> frozenset[int]:
        """Return the processes of the nodes that stand."""
        nodes = [self._cluster.head_node, *self.nodes]
        return frozenset(
            each.process.pid for node in nodes for processes in node.all_processes.values() for each in processes
        )

    def bury(self) -> None:
        """End what is left of the nodes that have fallen."""
        for node in self._fallen:
            for processes in node.all_processes.values():
                for each in processes:
                    with suppress(OSError, subprocess.TimeoutExpired):
                        each.process.kill()
                        each.process.wait(10)
        self._fallen.clear()

    def open_again(self) -> None:
        """Have another cluster in the place of this one."""
        self.close()
        self._open()

    def close(self) -> None:
        """End all nodes."""
        self.bury()
        self._cluster.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)


class Driver:
    """The program, run in a session of its own so that what belongs to it can be told."""

    def __init__(self, place: Place, kin: Kin, arguments: Sequence[str], log: Path) -> None:
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fedknow_ray", *arguments, *place.options, "--quiet"],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **place.environment},
            )
        kin.joins(self.process.pid)

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def kill(self) -> None:
        """End it without a word."""
        self.process.kill()
        self.process.wait(30)


def _raylet(node: Any) -> subprocess.Popen[bytes]:
    return _process(node, "raylet")


def _process(node: Any, kind: str) -> subprocess.Popen[bytes]:
    process: subprocess.Popen[bytes] = node.all_processes[kind][0].process
    return process
