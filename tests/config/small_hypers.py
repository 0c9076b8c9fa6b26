"""Hyper-parameters of two methods; pickled by this module's name, which unlike "conftest" stands for one module."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class FedAvgHyper(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FedKnowHyper(FedAvgHyper):
    retained_fraction: float = Field(0.1, gt=0, le=1)
    signature_tasks: int = Field(10, ge=1)
    second_use: Literal["on_receive", "after_aggregation", "off"] = "on_receive"
    threshold: Literal["network", "layer"] = "network"
    retrain_epochs: int = Field(2, ge=0)
    limit: int | Literal["all"] = "all"
    weights: tuple[float, ...] = ()
