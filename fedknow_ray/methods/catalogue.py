"""The methods by name; nothing is imported before a method is asked for.

Third parties add one through the entry-point group `fedknow_ray.methods`: a subclass of
`fedknow_ray.methods.method.Method`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedknow_ray.registry import Registry

if TYPE_CHECKING:
    from fedknow_ray.methods.method import Method

METHODS: Registry[type[Method]] = Registry("method", "fedknow_ray.methods")
METHODS.register("fedavg", "fedknow_ray.methods.fedavg:FedAvg")
METHODS.register("fedknow", "fedknow_ray.methods.fedknow.fedknow:FedKnow")
METHODS.register("fedweit", "fedknow_ray.methods.fedweit:FedWeit")
METHODS.register("flcn", "fedknow_ray.methods.flcn:Flcn")
METHODS.register("local", "fedknow_ray.methods.local:Local")
