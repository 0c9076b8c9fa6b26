"""Starting and joining Ray: a Ray of our own by default, a cluster that is there only when its address is given.

A Ray of our own is locked with a throw-away token, listens on 127.0.0.1 alone, writes to a temporary folder that goes
with it, touches nothing in $HOME, sends no usage statistics, and never joins another Ray that happens to run on the
machine.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from fedknow_ray.errors import UserError
from fedknow_ray.runtime.allocator import ALLOCATOR
from fedknow_ray.runtime.placement import DEVICE_RESOURCE, NodeOffer
from fedknow_ray.runtime.ray_security import locked_address, loopback_only

#: A socket's path may have 107 bytes, and Ray puts about 60 behind its folder.
LONGEST_FOLDER = 40
KNOCK_TIMEOUT_S = 5.0
#: A node that died is noticed after 4 s and one that hangs after 24 s, with Ray's own settings after 15 and over 60 s.
#: More would not do here: all is on one machine, and a node that is taken for dead while it is only slow takes all with
#: it. `fedknow-ray cluster render` sets less for nodes of their own.
HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 5000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 5000,
    "health_check_failure_threshold": 4,
}
#: Ray's record of every call, for a dashboard that our own Ray does not have: it grew by 4.4 MiB in the process that
#: keeps it, and by 3 to 5 MiB in ours, each 100 rounds of 50 clients (docs/results/soak.md).
NO_RECORD_OF_CALLS = {"task_events_report_interval_ms": 0}


@contextmanager
def own_ray(devices: Sequence[str], cpus: int) -> Iterator[None]:
    """Run a block inside a local Ray that offers one custom resource unit for each client's device.

    Raises:
        UserError: if this process is connected to a Ray already.
    """
    environment = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
        **ALLOCATOR,
    }
    with _environment(environment, without=("RAY_ADDRESS",)):
        import ray

        _refuse_second_connection()
        _reread_settings()
        offers = {DEVICE_RESOURCE.format(device): float(count) for device, count in Counter(devices).items()}
        folder = Path(tempfile.mkdtemp(prefix="fkr-", dir=_short_folder()))
        try:
            with _own_sigterm(), loopback_only():
                ray.init(
                    address="local",
                    num_cpus=cpus,
                    num_gpus=0,
                    resources=offers,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level="ERROR",
                    _temp_dir=str(folder),
                    # a copy: Ray writes into it
                    _system_config={**HEALTH_CHECKS, **NO_RECORD_OF_CALLS},
                )
            yield
        finally:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def joined_ray(address: str, *, insecure: bool = False) -> Iterator[None]:
    """Run a block connected to a cluster that is there, with the token that the environment gives.

    Raises:
        UserError: if there is no cluster at the address, it does not let us in, it lets in everybody and *insecure* is
            not set, or this process is connected already.
    """
    import ray
    from ray.exceptions import RayError

    _refuse_second_connection()
    _reread_settings()
    try:
        _knock(os.environ.get("RAY_ADDRESS", address) if address == "auto" else address)
        cluster = locked_address(address, insecure=insecure)
        with _own_sigterm():
            ray.init(address=cluster, log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError, RuntimeError, RayError) as error:
        raise UserError(
            f"no Ray cluster can be reached at {address!r}: {error}\n"
            "  start one with `ray start --head`, or leave --address out to get a Ray of its own; a cluster with token "
            "authentication needs RAY_AUTH_MODE=token and RAY_AUTH_TOKEN in the environment"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _refuse_second_connection() -> None:
    import ray

    if ray.is_initialized():
        raise UserError(
            "this process is connected to a Ray already, and it can have one only: call ray.shutdown() first"
        )


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Put back the SIGTERM handler that there was: `ray.init` sets one that exits without a word to the run."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _reread_settings() -> None:
    """Have Ray read its settings and its token from the environment again.

    It does so only when it is imported, and a program may import ray, or run us, before this run. Ray's own
    `ray.init` refreshes them in the same way (2.60, authentication_token_setup.py); there is no public call.
    """
    raylet: Any = import_module("ray._raylet")
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


def node_offers() -> list[NodeOffer]:
    """Return what the living nodes have free at this moment."""
    import ray
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    offers = []
    for node in ray.nodes():
        if node["Alive"] and node["NodeID"] in free:
            resources: Mapping[str, float] = free[node["NodeID"]]
            offers.append(
                NodeOffer(
                    node_id=node["NodeID"],
                    cpus=float(resources.get("CPU", 0.0)),
                    memory_bytes=float(resources.get("memory", 0.0)),
                    resources={k: float(v) for k, v in resources.items() if k.startswith("device:")},
                    labels=node.get("Labels", {}),
                )
            )
    return offers


def _knock(address: str) -> None:
    """Raise an OSError where nobody listens at HOST:PORT: Ray itself would try again for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "://" not in address:
        socket.create_connection((host, int(port)), timeout=KNOCK_TIMEOUT_S).close()


@contextmanager
def _environment(values: Mapping[str, str], without: Sequence[str]) -> Iterator[None]:
    """Set and remove environment variables for a block; Ray reads its settings from there only."""
    touched = {name: os.environ.get(name) for name in (*values, *without)}
    os.environ.update(values)
    for name in without:
        os.environ.pop(name, None)
    try:
        yield
    finally:
        for name, old in touched.items():
            if old is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = old


def _short_folder() -> str:
    folder = tempfile.gettempdir()
    return folder if len(folder) <= LONGEST_FOLDER else "/tmp"
