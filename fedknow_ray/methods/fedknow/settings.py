"""The hyper-parameters of FedKNOW and the values that they may take.

`variant` gives some keys other defaults, and fixes those in which the variant knows one way only. A resolved config
names the values that are in force.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from fedknow_ray.config.yaml import show
from fedknow_ray.errors import did_you_mean
from fedknow_ray.methods.method import Hyperparameters, OwnModel

#: Defaults of a variant, where they are not those of the fields.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "paper": {"second_use": "on_receive", "retained_fraction": 0.1, "retrain_epochs": 2},
    "authors_code": {
        "margin": 0.5,
        "retained_fraction": 0.1,
        "retrain_epochs": 4,
        "violation_test": "oldest_task",
    },
}
#: Keys that have one value in a variant.
_FIXED: dict[str, dict[str, Any]] = {
    "tuned": {"violation_test": "current"},
    "paper": {
        "violation_test": "current",
        "integration": "projection",
        "past_heads": "frozen",
        "stored_bits": 32,
        "own_model": "last_visit",
    },
    "authors_code": {
        "integration": "projection",
        "past_heads": "frozen",
        "selection": "oldest",
        "stored_bits": 32,
        "own_model": "last_visit",
        "second_use": "off",
        "labels": "soft",
        "threshold": "network",
        "masks": "disjoint",
    },
}


def _known_variant(name: Any) -> Any:
    if not isinstance(name, str) or name not in _FIXED:
        raise ValueError(f"unknown variant {name!r}{did_you_mean(str(name), _FIXED)}")
    return name


#: Settings of what is kept of a task, and of how past tasks take part in a later one.
_OF_KNOWLEDGE = {"retained_fraction", "retrain_epochs", "threshold", "stored_bits", "own_model"}
_OF_PAST_TASKS = {"integration", "restored_weight", "past_heads", "margin", "labels", "temperature"}
#: Integrations at the features' output, in one backward pass.
SUMMING = ("sum", "feature_projection")


class FedKnowSettings(Hyperparameters):
    """FedKNOW's hyper-parameters; the defaults are those of `variant: tuned`, of the others see docs/decisions/0003."""

    # First, because fields are checked in order and the others are checked against it.
    variant: Annotated[Literal["tuned", "paper", "authors_code"], BeforeValidator(_known_variant)] = "tuned"
    """Which FedKNOW: what did best in our experiments, the paper's, or what its authors' published code does."""
    retained_fraction: float = Field(1.0, gt=0, le=1)
    """rho: share of the weights in tensors of two or more dimensions that is kept of each task; `authors_code`: of
    those that earlier tasks left."""
    signature_tasks: int = Field(10, ge=1)
    """k: past gradients that constrain a step; in `authors_code` that of the dense old model is one of them."""
    integration: Literal["projection", "preconditioned", "sum_then_projection", "sum", "feature_projection"] = "sum"
    """How past tasks take part in a step: as constraints on the gradient or on the optimizer's update, as further
    losses in one sum, or both; feature_projection does both at the features' output."""
    restored_weight: float = Field(1.0, gt=0)
    """Weight of each signature task's loss in a sum, beside 1 of the task at hand."""
    past_heads: Literal["frozen", "trained"] = "frozen"
    """Whether head rows of signature tasks follow the features while another task is learnt."""
    second_use: Literal["on_receive", "after_aggregation", "displacement", "off"] = "off"
    """When the client's own model before aggregation constrains one epoch from the aggregate, by its gradient; with
    displacement by the way from it to the aggregate instead, on receive."""
    own_model: OwnModel = "final"
    """What a client's own model is after a task, and so what it keeps knowledge of: that of its last visit, or the
    final features with its head trained on them."""
    selection: Literal["wasserstein", "wasserstein_sorted", "cosine", "oldest", "random"] = "wasserstein"
    """How a task's signature tasks are chosen, at a client's first visit in it, where there are more past tasks than
    k."""
    margin: float = Field(0.0, ge=0)
    """Least multiplier of each past gradient once one is violated; 0.5 in `authors_code`."""
    violation_test: Literal["current", "oldest_task"] = "current"
    """Whose gradient is tested against the past ones to see whether a step must change: the present one, or (in
    `authors_code` only, and its default) that of the oldest task's knowledge."""
    labels: Literal["soft", "hard"] = "soft"
    """What the pruned past models say of the current images: probabilities, or the class alone."""
    temperature: float = Field(2.0, gt=0)
    """Softening of soft labels."""
    retrain_epochs: int = Field(0, ge=0)
    """Epochs in which the kept weights are trained after pruning; 2 in `paper`, 4 in `authors_code`."""
    stored_bits: Literal[4, 8, 32] = 4
    """Bits in which a kept weight is stored: 32 for exactly; fewer round it, so that more weights fit."""
    threshold: Literal["network", "layer"] = "network"
    """Whether the largest weights are sought over the whole network or in each layer by itself."""
    masks: Literal["overlapping", "disjoint"] = "overlapping"
    """Whether a weight may belong to the knowledge of more than one task."""

    @model_validator(mode="after")
    def _leave_room_for_disjoint_masks(self) -> FedKnowSettings:
        """Refuse to give all weights to the first task where no weight may belong to two."""
        if self.masks == "disjoint" and self.retained_fraction == 1 and self.variant != "authors_code":
            raise ValueError(
                "masks: disjoint with retained_fraction 1 leaves no weight to a second task; lower retained_fraction, "
                "for example to 0.1, or use masks: overlapping"
            )
        return self

    @property
    def label_temperature(self) -> float:
        """The temperature at which the student meets the labels: hard ones have none."""
        return self.temperature if self.labels == "soft" else 1.0

    def in_force(self, task_index: int, *, finished: bool) -> set[str]:
        """Return the names of the settings that can have made a difference when the rounds of task *task_index* are
        made, and with *finished* its end too; not for `authors_code`."""
        past_tasks, kept = task_index, task_index + finished
        names = {"second_use", "margin"} if self.second_use != "off" else set()
        names |= _OF_KNOWLEDGE if kept >= 1 else set()
        names |= {"masks"} if kept >= 2 else set()
        names |= _OF_PAST_TASKS if past_tasks >= 1 else set()
        names |= {"signature_tasks", "selection"} if past_tasks > self.signature_tasks else set()
        return names

    @model_validator(mode="before")
    @classmethod
    def _fill_in_by_variant(cls, keys: Any) -> Any:
        """Give the keys that are left out the variant's values."""
        variant = keys.get("variant", "tuned") if isinstance(keys, dict) else None
        if not isinstance(variant, str) or variant not in _FIXED:
            return keys
        return {**_DEFAULTS.get(variant, {}), **_FIXED[variant], **keys}

    @field_validator(*sorted({key for fixed in _FIXED.values() for key in fixed}), mode="before")
    @classmethod
    def _only_what_the_variant_knows(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse another value where the variant has one only; each key by itself, so that all faults are told."""
        variant, key = info.data.get("variant"), str(info.field_name)
        # Without a sound variant there is nothing to hold the others against.
        only = _FIXED[variant].get(key, value) if variant is not None else value
        if value != only:
            raise ValueError(
                f"must be {show(only)} with variant {variant}, got {show(value)}; "
                f"leave it out, or use --set method.{key}={only}"
            )
        return value
