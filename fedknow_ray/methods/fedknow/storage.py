"""Knowledge on the device's storage: how many bytes it takes there, and what writing and reading it costs.

What is kept of past tasks lies on flash or disk. It is written once, at the end of its task, and read at a client's
first visit in a later task that hears it.
"""

from __future__ import annotations

from fedknow_ray.methods.costs import StepCosts
from fedknow_ray.methods.fedknow.settings import FedKnowSettings
from fedknow_ray.models.footprint import FLOAT_BYTES
from fedknow_ray.simulation.work import WorkItem

#: Passes over the weights that pruning takes: read magnitudes, find the threshold, write the masked copy.
PRUNE_PASSES = 4


def knowledge_bytes(costs: StepCosts, classes: int, settings: FedKnowSettings) -> int:
    """Return about how many bytes one task's knowledge takes: kept values, one bit a weight that may be missing, head
    rows.

    The weights that are always kept (biases) are counted as if they were pruned, 0.1 % of cnn6; the scales of codes are
    left out, 0.5 % of what is kept of cnn6 at 4 bits.
    """
    footprint = costs.footprint
    values = round(settings.retained_fraction * footprint.P) * settings.stored_bits // 8
    return values + mask_bytes(costs, settings) + FLOAT_BYTES * (classes * (footprint.F + 1) + footprint.B)


def mask_bytes(costs: StepCosts, settings: FedKnowSettings) -> int:
    """Return the bytes of one task's mask: one bit a weight that may be missing."""
    return costs.footprint.P // 8 if settings.retained_fraction < 1 else 0


def store_item(costs: StepCosts, classes: int, settings: FedKnowSettings) -> WorkItem:
    """Writing one task's knowledge: put together in memory, which reads and writes it, then written."""
    stored = knowledge_bytes(costs, classes, settings)
    return WorkItem("store", 1, 0, 2 * stored, stored)


def read_item(costs: StepCosts, classes: int, settings: FedKnowSettings) -> WorkItem:
    """Reading one task's knowledge and writing its weights out in memory."""
    return costs.stored("teach", 1, knowledge_bytes(costs, classes, settings))


def prune_item(costs: StepCosts, remembered_tasks: int, settings: FedKnowSettings) -> WorkItem:
    """Pruning a copy of the weights; masks that must not overlap need those of all tasks that are kept: they are
    read."""
    masks = remembered_tasks * mask_bytes(costs, settings) if settings.masks == "disjoint" else 0
    return costs.stored("prune", PRUNE_PASSES, masks)
