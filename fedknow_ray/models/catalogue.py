"""The models by name, and what is known of each without importing torch.

Third parties add one through the entry-point group `fedknow_ray.models`: an object of `ModelSpec`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from fedknow_ray.registry import Registry

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One network architecture.

    *build(height, width, channels)* returns the feature extractor: (N, channels, height, width) -> (N, F). The head,
    one linear row per class, is added by `models.network`.
    *kind* names the class of utilisation in a device's profile; see docs/devices.md.
    """

    name: str
    kind: str
    minimum_size: int
    maximum_size: int
    build: Callable[[int, int, int], nn.Module]

    def unsuitable(self, height: int, width: int, channels: int) -> str | None:
        """Return why the network cannot take images of this size, or None if it can."""
        if not self.minimum_size <= min(height, width) <= max(height, width) <= self.maximum_size:
            return (
                f"{self.name} takes images of {self.minimum_size} to {self.maximum_size} pixels a side, "
                f"and these are {height} x {width}"
            )
        if channels not in (1, 3):
            return f"{self.name} takes images of 1 or 3 channels, and these have {channels}"
        return None


def _build_cnn6(divisor: int, height: int, width: int, channels: int) -> nn.Module:
    from fedknow_ray.models.cnn6 import Cnn6Features

    return Cnn6Features(height, width, channels, divisor=divisor)


MODELS: Registry[ModelSpec] = Registry("model", "fedknow_ray.models")
# Three halvings leave at least one pixel of 8; above 64 the first linear layer would pass 8 million weights.
for _name, _divisor in (("cnn6", 1), ("cnn6_half", 2), ("cnn6_quarter", 4)):
    _build = partial(_build_cnn6, _divisor)
    MODELS.register(_name, ModelSpec(_name, "small_cnn", minimum_size=8, maximum_size=64, build=_build))
