"""The paper's six-layer CNN (FedKNOW, section V; layer sizes from the authors' published code).

Three blocks of two 3x3 convolutions (32, 64, 128 channels), each with 2x2 max pooling and dropout 0.25, then a linear
layer of 1024 with dropout 0.5. No normalisation layers. At 32 x 32 x 3: 2,385,184 weights and 40.7 million
multiply-adds a sample, forward. Other sizes change the input of the linear layer: 128 * (height // 8) * (width // 8).

`cnn6_half` has half of each width (16, 32, 64 channels, 512 features) and about a quarter of the weights and of the
arithmetic, `cnn6_quarter` a quarter (8, 16, 32 channels, 256 features) and a sixteenth: for experiments of many runs.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (32, 64, 128)
FEATURES = 1024


class Cnn6Features(nn.Module):
    """(N, channels, height, width) -> (N, 1024 // divisor); *divisor* is what the paper's widths are divided by."""

    def __init__(self, height: int, width: int, channels: int, *, divisor: int = 1) -> None:
        super().__init__()
        widths = tuple(full // divisor for full in WIDTHS)
        inputs = (channels, *widths[:-1])
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "first": nn.Conv2d(before, after, 3, padding=1),
                    "second": nn.Conv2d(after, after, 3, padding=1),
                }
            )
            for before, after in zip(inputs, widths, strict=True)
        )
        self.linear = nn.Linear(widths[-1] * (height // 8) * (width // 8), FEATURES // divisor)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the features (N, 1024)."""
        x = x_NCHW
        for block in self.blocks:
            x = F.relu(block["first"](x))  # type: ignore[index]
            x = F.relu(block["second"](x))  # type: ignore[index]
            x = F.dropout(F.max_pool2d(x, 2), 0.25, self.training)
        return F.dropout(F.relu(self.linear(x.flatten(1))), 0.5, self.training)
