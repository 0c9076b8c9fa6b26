"""Local training: each client continues from its own weights and nothing is ever sent.

The yardstick for negative transfer: what a client reaches without federation, for the same number of visits.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel

from fedknow_ray.methods.fedavg import FedAvg
from fedknow_ray.methods.method import Hyperparameters


class Local(FedAvg):
    """FedAvg without the server."""

    hyperparameters: ClassVar[type[BaseModel]] = Hyperparameters
    federated = False

    @property
    def own_is_final(self) -> bool:
        """There are no final features."""
        return False
