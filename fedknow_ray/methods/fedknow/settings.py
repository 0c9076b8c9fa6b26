"""The hyper-parameters of FedKNOW and the values that they may take."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedknow_ray.methods.method import Hyperparameters


class FedKnowSettings(Hyperparameters):
    """FedKNOW's hyper-parameters; defaults are those of the paper's CIFAR-100 runs, and docs/decisions/0003 else."""

    retained_fraction: float = Field(0.1, gt=0, le=1)
    """rho: share of the weights in tensors of two or more dimensions that is kept of each task."""
    signature_tasks: int = Field(10, ge=1)
    """k: past tasks whose gradients constrain a step."""
    second_use: Literal["on_receive", "after_aggregation", "off"] = "on_receive"
    """When the gradient of the client's own model before aggregation constrains one epoch from the aggregate."""
    selection: Literal["wasserstein", "wasserstein_sorted", "cosine", "oldest", "random"] = "wasserstein"
    """How signature tasks are chosen where there are more past tasks than k."""
    margin: float = Field(0.0, ge=0)
    """Least multiplier of each past gradient once one is violated; the authors' code has 0.5."""
    labels: Literal["soft", "hard"] = "soft"
    """What the pruned past models say of the current images: probabilities, or the class alone."""
    temperature: float = Field(2.0, gt=0)
    """Softening of soft labels."""
    retrain_epochs: int = Field(2, ge=0)
    """Epochs in which the kept weights are trained after pruning."""
    threshold: Literal["network", "layer"] = "network"
    """Whether the largest weights are sought over the whole network or in each layer by itself."""
    masks: Literal["overlapping", "disjoint"] = "overlapping"
    """Whether a weight may belong to the knowledge of more than one task."""
