"""What FedKNOW's rules hand to the integrator."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from fedknow_ray.methods.fedknow import rules
from fedknow_ray.methods.fedknow.integrator import integrate


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Copies of the vectors (k + 1, P) that each step of `rules` hands to the integrator."""
    vectors: list[Tensor] = []

    def spy(G_RP: Tensor, margin: float, out: Tensor | None = None) -> Any:
        vectors.append(G_RP.clone())
        return integrate(G_RP, margin, out)

    monkeypatch.setattr(rules, "integrate", spy)
    return vectors
