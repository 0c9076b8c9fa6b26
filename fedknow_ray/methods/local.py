"""Local training: each client continues from its own weights and nothing is ever sent.

The yardstick for negative transfer: what a client reaches without federation, for the same number of visits.
"""

from __future__ import annotations

from fedknow_ray.methods.fedavg import FedAvg


class Local(FedAvg):
    """FedAvg without the server."""

    federated = False
