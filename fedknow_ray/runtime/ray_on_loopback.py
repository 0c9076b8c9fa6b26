"""`ray start` on 127.0.0.1 alone: python -m fedknow_ray.runtime.ray_on_loopback start OPTIONS

Ray opens its ports on all interfaces unless the node's address is 127.0.0.1, and replaces that address by another one
if it is given (2.60, `resolve_ip_for_localhost`; there is no public setting). Several nodes of one machine need no
other. The driver that joins them needs RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0, which has it keep the address as well.
"""

from __future__ import annotations

LOOPBACK = "127.0.0.1"


def main() -> None:
    """Run Ray's own command line with the given arguments."""
    from ray._private import services
    from ray.scripts import scripts

    services.resolve_ip_for_localhost = lambda host: host
    services.get_node_ip_address = lambda address=None: LOOPBACK
    scripts.main()


if __name__ == "__main__":
    main()
