"""How much memory a fleet asks of a cluster, known before the data are opened and before there is a cluster."""

from __future__ import annotations

from fedknow_ray.config.model import RunConfig
from fedknow_ray.errors import DataError
from fedknow_ray.experiment.assembly import make_assembly, open_labels, outline, sizes_of
from fedknow_ray.runtime.care import Sizes


def fleet_sizes(config: RunConfig) -> Sizes:
    """Return how large the clients and visits of a config get; of its data only the labels are read.

    With `placement.memory_per_actor` the config has said what an actor asks for, and no data are needed.

    Raises:
        DataError: if the data are missing, which is where to say `placement.memory_per_actor`.
        UserError: if a device or a trace is wrong.
    """
    if config.placement.memory_per_actor is not None:
        return Sizes(0, 0)
    try:
        labels = open_labels(config)
    except DataError as error:
        raise DataError(
            f"{error}\n  what a client takes follows from how many images it has; where the data are not at hand, say "
            "what an actor gets: --set placement.memory_per_actor=2GiB"
        ) from error
    assembly = make_assembly(config, labels)
    return sizes_of(assembly, outline(assembly))
