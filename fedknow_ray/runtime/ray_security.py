"""Who can reach a Ray, and whom it lets in: our own on loopback alone, a joined one only if it asks for a token.

Whoever Ray lets in can run code, as it hands pickles and shell commands around. A cluster without token authentication
lets in everybody who reaches one of its ports, and Ray opens them on all interfaces, those of a head that was started
for 127.0.0.1 as well. So a run joins such a cluster only if it is told to.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, TypeAlias

from fedknow_ray.errors import UserError

Lock: TypeAlias = Literal["open", "locked", "unknown"]

PROBE_TIMEOUT_S = 30.0
_OPEN, _LOCKED = 10, 11
#: In a process of its own: Ray reads whether it uses a token once, and tells on standard error that it was refused.
_PROBE = f"""
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=sys.argv[1]).get_all_node_info(timeout=10)
except AuthenticationError:
    sys.exit({_LOCKED})
sys.exit({_OPEN})
"""


def probe(address: str) -> Lock:
    """Return whether the cluster at HOST:PORT lets in whoever has no token; "unknown" where none answers.

    The question is asked without a token, so that none is shown to a cluster that would not have asked for it.
    """
    without = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    return _knock_with({**without, "RAY_AUTH_MODE": "disabled"}, address)


def _knock_with(environment: Mapping[str, str], address: str) -> Lock:
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _PROBE, address],
            env=dict(environment),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "unknown"
    answers: dict[int, Lock] = {_OPEN: "open", _LOCKED: "locked"}
    return answers.get(done.returncode, "unknown")


def locked_address(address: str, *, insecure: bool) -> str:
    """Return the HOST:PORT that an address stands for, where the cluster there asks for a token, or *insecure* is set.

    Raises:
        UserError: if it asks for none, it cannot be found out, or the cluster refuses the token of the environment.
        ValueError, ConnectionError: from Ray, if the address leads to no cluster.
    """
    if insecure:
        return address
    found = _resolved(address)
    lock = probe(found)
    if lock == "open":
        raise UserError(
            f"the Ray cluster at {found} has no token authentication: whoever reaches it can run code on it\n"
            "  start it with RAY_AUTH_MODE=token and a RAY_AUTH_TOKEN in the environment of every node and of this "
            "command (SECURITY.md), or say --insecure if the network keeps others out"
        )
    if lock == "unknown":
        raise UserError(
            f"the Ray cluster at {found} does not say whether it asks for a token\n"
            "  see that a Ray of the same version runs there, or say --insecure to join it all the same"
        )
    # Ray itself would knock for half a minute before it says so
    if _knock_with(os.environ, found) == "locked":
        raise UserError(
            f"the Ray cluster at {found} refuses this command: it asks for a token that the environment does not have\n"
            "  set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH as on the nodes of the cluster"
        )
    return found


@contextmanager
def loopback_only() -> Iterator[None]:
    """Have a Ray that is started in the block listen on 127.0.0.1 alone, its workers included.

    Ray binds all ports to loopback where the node's own address is 127.0.0.1, and replaces that address by another one
    if it is given (`resolve_ip_for_localhost`, 2.60). It keeps it where it takes the machine for one without clusters,
    as it does on macOS and Windows; there is no public setting.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _resolved(address: str) -> str:
    from ray._private.services import canonicalize_bootstrap_address

    if "://" in address:
        raise UserError(
            f"whether {address!r} asks for a token cannot be found out; give the HOST:PORT of the cluster, or say "
            "--insecure"
        )
    found: str | None = canonicalize_bootstrap_address(address)
    if found is None:
        raise UserError(f"the address {address!r} is no cluster; leave --address out to get a Ray of its own")
    return found
