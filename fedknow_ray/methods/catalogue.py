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
METHODS.register("ags_cl", "fedknow_ray.methods.ags_cl:AgsCl")
METHODS.register("apfl", "fedknow_ray.methods.apfl:Apfl")
METHODS.register("bcn", "fedknow_ray.methods.bcn:Bcn")
METHODS.register("co2l", "fedknow_ray.methods.co2l:Co2l")
METHODS.register("ewc", "fedknow_ray.methods.ewc:Ewc")
METHODS.register("fedavg", "fedknow_ray.methods.fedavg:FedAvg")
METHODS.register("fedknow", "fedknow_ray.methods.fedknow.fedknow:FedKnow")
METHODS.register("fedprox", "fedknow_ray.methods.fedprox:FedProx")
METHODS.register("fedrep", "fedknow_ray.methods.fedrep:FedRep")
METHODS.register("fedweit", "fedknow_ray.methods.fedweit:FedWeit")
METHODS.register("flcn", "fedknow_ray.methods.flcn:Flcn")
METHODS.register("gem", "fedknow_ray.methods.gem:Gem")
METHODS.register("joint", "fedknow_ray.methods.joint:Joint")
METHODS.register("local", "fedknow_ray.methods.local:Local")
METHODS.register("lwf", "fedknow_ray.methods.lwf:Lwf")
METHODS.register("mas", "fedknow_ray.methods.mas:Mas")
METHODS.register("replay", "fedknow_ray.methods.replay:Replay")
