"""How much memory a fleet takes, without its images: what a run finds with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from small import write_config

from fedknow_ray.errors import DataError
from fedknow_ray.experiment.assembly import open_data, put_together
from fedknow_ray.experiment.fitting import fleet_sizes
from fedknow_ray.experiment.run import read_config
from fedknow_ray.runtime.care import Sizes


@pytest.mark.parametrize(
    "overrides", [[], ["method.name=fedknow"], ["compression.name=int8", "model.head=global"]], ids=str
)
def test_sizes_are_those_of_the_run(tmp_path: Path, overrides: list[str]) -> None:
    """The start model is counted by its arrays there, and by the footprint here."""
    config = read_config(write_config(tmp_path), overrides)
    parts = put_together(config, open_data(config))
    sizes = fleet_sizes(config)
    assert sizes == Sizes(parts.client_bytes, parts.visit_bytes)
    assert sizes.client_bytes >= memoryview(parts.start).nbytes - 4096


def test_without_the_data_the_config_can_say_what_an_actor_gets(tmp_path: Path) -> None:
    missing = ["scenario.dataset=cifar100", f"scenario.data_root={tmp_path}", "scenario.source=parquet"]
    config = write_config(tmp_path)
    with pytest.raises(DataError, match=r"--set placement\.memory_per_actor=2GiB"):
        fleet_sizes(read_config(config, missing))
    assert fleet_sizes(read_config(config, [*missing, "placement.memory_per_actor=2GiB"])) == Sizes(0, 0)
