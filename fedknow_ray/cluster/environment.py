"""What each node of a cluster has in its environment, and how the options of `ray start` are written in a shell."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping

from fedknow_ray.cluster.plan import NodeGroup
from fedknow_ray.runtime.allocator import ALLOCATOR

#: A node is given up after 3 checks, 1 s apart, that fail or last 2 s: 3 s where it is off, 9 s where it hangs. With
#: Ray's own settings it was 15 s, and over 60.
HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 5000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}
#: Without usage statistics; an actor without a GPU sees none; the allocator as training wants it.
OF_EVERY_NODE = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1", **ALLOCATOR}


def node_environment(health: Mapping[str, int] = HEALTH_CHECKS) -> dict[str, str]:
    """Return the environment of every node but for its token."""
    return {**OF_EVERY_NODE, **{f"RAY_{name}": str(value) for name, value in health.items()}}


def exports(environment: Mapping[str, str]) -> list[str]:
    """Return shell lines that set an environment, one a variable.

    >>> exports({"A": "1", "B": "a b"})
    ['export A=1', "export B='a b'"]
    """
    return [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]


def resource_options(group: NodeGroup) -> list[str]:
    """Return the options of `ray start` for what a node of a group offers to clients, quoted for a shell."""
    labels = ",".join(f"{key}={value}" for key, value in group.labels.items())
    return [f"--resources={shlex.quote(json.dumps(group.resources))}", f"--labels={labels}"]
