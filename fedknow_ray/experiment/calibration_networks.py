"""The networks that calibration trains: one a kind for the fit, a tiny one for the overhead, and two that are held out.

ResNet-18 at 224 x 224 is what `sustained_flops_per_s` is defined by, cnn6 the network of the runs. The others are made
here, so that a later model of the registry does not change what a calibration measures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from fedknow_ray.models.catalogue import MODELS, ModelSpec
from fedknow_ray.models.cnn6 import Cnn6Features

Role = Literal["reference", "usual", "tiny", "other", "held_out"]


@dataclass(frozen=True, slots=True)
class Workload:
    """A network with the square RGB images that it is trained on, and what its time is for.

    *role* is the argument of `simulation.calibration.fit`; a network that is held out plays no part in it.
    """

    role: Role
    spec: ModelSpec
    side: int
    batch_size: int

    def __str__(self) -> str:
        return f"{self.spec.name} at {self.side} x {self.side}, batches of {self.batch_size}"


class DepthwiseFeatures(nn.Module):
    """Blocks of a depthwise 3x3 and a pointwise convolution, as in MobileNet, to 128 channels and the mean of each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, inputs, 3, stride=stride, padding=1, groups=inputs, bias=False),
                nn.BatchNorm2d(inputs),
                nn.ReLU(),
                nn.Conv2d(inputs, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            )
            for inputs, outputs, stride in [(32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1)]
        )

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the features (N, 128)."""
        x = F.relu(self.stem(x_NCHW))
        for block in self.blocks:
            x = block(x)
        return x.mean((2, 3))


class ResidualFeatures(nn.Module):
    """Three stages of two 3x3 convolutions with batch normalisation and a shortcut, to 128 channels and their means."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1, bias=False)
        widths = [(32, 32, 1), (32, 64, 2), (64, 128, 2)]
        self.stages = nn.ModuleList(
            nn.ModuleDict(
                {
                    "body": nn.Sequential(
                        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
                        nn.BatchNorm2d(outputs),
                        nn.ReLU(),
                        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
                        nn.BatchNorm2d(outputs),
                    ),
                    "shortcut": nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False),
                }
            )
            for inputs, outputs, stride in widths
        )

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the features (N, 128)."""
        x = F.relu(self.stem(x_NCHW))
        for stage in self.stages:
            x = F.relu(stage["body"](x) + stage["shortcut"](x))  # type: ignore[index]
        return x.mean((2, 3))


def _resnet18(height: int, width: int, channels: int) -> nn.Module:
    network = cast(nn.Module, torchvision.models.resnet18(weights=None))
    network.fc = nn.Identity()
    return network


def _tiny(height: int, width: int, channels: int) -> nn.Module:
    """Build cnn6 with 1, 2 and 4 channels: its kernels without its arithmetic."""
    return Cnn6Features(height, width, channels, divisor=32)


def _spec(name: str, kind: str, build: type[nn.Module]) -> ModelSpec:
    return ModelSpec(name, kind, 8, 224, lambda height, width, channels: build())


def workloads() -> tuple[Workload, ...]:
    """Return what calibration times: a reference, a usual and a tiny network, one of another kind, two held out."""
    return (
        Workload("reference", ModelSpec("resnet18", "dense_cnn", 32, 224, _resnet18), 224, 8),
        Workload("usual", MODELS.get("cnn6"), 32, 40),
        Workload("tiny", ModelSpec("tiny cnn6", "small_cnn", 8, 64, _tiny), 8, 1),
        Workload("other", _spec("small depthwise", "depthwise", DepthwiseFeatures), 32, 40),
        Workload("held_out", _spec("small residual", "small_cnn", ResidualFeatures), 32, 40),
        Workload("held_out", MODELS.get("cnn6_half"), 32, 40),
    )
