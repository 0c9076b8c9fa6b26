"""A forecast is what the run then records, and says where a device's memory ends."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from small import run_small, with_memory, write_config

from fedknow_ray.errors import ConfigError, UserError
from fedknow_ray.experiment.forecast import Forecast, MemoryForecast, forecast_file

FEDKNOW = {"method.name": "fedknow", "method.variant": "paper", "training.local_epochs": 2}
CASES: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "local": {"method.name": "local"},
    "fedknow": {**FEDKNOW, "training.rounds_per_task": 2},
    "int8": {"compression": {"name": "int8"}},
    "visits that fail": {"failures.probability": 0.4, "training.rounds_per_task": 3},
    "a deadline": {"policy": {"name": "deadline", "deadline_s": 4.0, "over_selection": 1.5}},
    "fedbuff": {"policy": {"name": "fedbuff", "buffer_size": 2}, "training.rounds_per_task": 2},
    "clients that are off": {"availability": {"name": "markov", "mean_on_s": 20, "mean_off_s": 5}},
}


def forecasts(folder: Path, overrides: dict[str, Any], methods: list[str] | None = None) -> list[Forecast]:
    sets = [f"{key}={flow(value)}" for key, value in overrides.items()]
    return [found for _, found in forecast_file(write_config(folder), sets, methods)]


def flow(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {flow(item)}' for key, item in value.items())}}}"
    return str(value)


@pytest.mark.parametrize("overrides", CASES.values(), ids=list(CASES))
def test_a_run_records_what_was_forecast(overrides: dict[str, Any], tmp_path: Path):
    (told,) = forecasts(tmp_path, overrides)
    run = run_small(tmp_path, overrides)
    assert run.summary is not None
    for key in ("virtual_time_s", "upload_bytes", "download_bytes", "energy_j"):
        assert getattr(told, key) == run.summary[key], key
    statuses = Counter(run.visits["status"].to_pylist())
    assert told.visits == run.visits.num_rows
    assert told.lost == {status: count for status, count in statuses.items() if status != "ok"}
    peaks = run.visits.group_by("device").aggregate([("peak_memory_bytes", "max")]).to_pylist()
    highest = {memory.device: max(map(max, memory.peak_bytes.values())) for memory in told.memory}
    assert all(row["peak_memory_bytes_max"] <= highest[row["device"]] for row in peaks)


def test_tasks_follow_each_other_and_add_up(tmp_path: Path):
    (told,) = forecasts(tmp_path, CASES["visits that fail"])
    first, second = told.tasks
    assert (first.start_s, first.end_s, second.end_s) == (0.0, second.start_s, told.virtual_time_s)
    assert told.upload_bytes == first.upload_bytes + second.upload_bytes
    assert told.lost == {"failed": first.lost.get("failed", 0) + second.lost.get("failed", 0)}


def test_each_method_has_the_settings_that_it_knows(tmp_path: Path):
    fedavg, fedknow = forecasts(tmp_path, {"method.variant": "paper"}, ["fedavg", "fedknow"])
    assert (fedavg.method, fedknow.method) == ("fedavg", "fedknow")
    assert all(memory.kept_bytes == (0, 0) for memory in fedavg.memory)
    for memory in fedknow.memory:
        assert memory.kept_bytes[0] == memory.stored_bytes[0] == 0
        assert memory.kept_bytes[1] > memory.stored_bytes[1] > 0
    assert fedknow.virtual_time_s > fedavg.virtual_time_s


def test_the_first_task_that_does_not_fit_is_named_and_its_visits_are_lost(tmp_path: Path):
    knowing = {**FEDKNOW, "training.rounds_per_task": 3}
    (roomy,) = forecasts(tmp_path, knowing)
    limit = roomy.memory[0].highest(0)[1]
    tight = {**knowing, **with_memory(tmp_path / "devices", limit)}
    (told,) = forecasts(tmp_path, tight)
    assert [memory.stops_at for memory in told.memory] == [1, None]
    assert told.tasks[0].lost == {}
    assert told.tasks[1].lost["out_of_memory"] > 0
    run = run_small(tmp_path, tight)
    assert told.lost == {"out_of_memory": run.visits["status"].to_pylist().count("out_of_memory")}


def test_a_device_of_unknown_memory_holds_everything():
    peaks = {"train": (10**15,)}
    memory = MemoryForecast("board", None, peaks, (0,), (0,), peaks, (0,))
    assert (memory.stops_at, memory.evicts_at) == (None, None)


def test_a_device_that_evicts_stops_fitting_where_nothing_is_left_to_evict():
    """Of 35 bytes: the end of task 2 takes more with no past task either."""
    train, finish = {"train": (10, 20, 30, 40)}, {"finish_task": (10, 36, 36, 37)}
    memory = MemoryForecast(
        device="board",
        memory_bytes=35,
        peak_bytes={**train, **finish},
        kept_bytes=(0, 1, 2, 3),
        stored_bytes=(0, 1, 2, 3),
        least_bytes={"train": (10, 10, 10, 10), "finish_task": (10, 35, 36, 36)},
        evicted_tasks=(0, 1, 2, 3),
    )
    assert (memory.evicts_at, memory.stops_at) == (1, 2)
    assert [memory.fits(t) for t in range(4)] == [True, False, False, False]
    assert memory.highest(3) == ("train", 40)
    assert memory.highest(3, least=True) == ("finish_task", 36)


def test_joules_are_unknown_where_a_device_lacks_its_watts(tmp_path: Path):
    overrides = with_memory(tmp_path / "devices", 10**9, watts="busy_w: null\n")
    (told,) = forecasts(tmp_path, overrides)
    assert (told.energy_j, told.unknown_watts) == (None, ("tight",))


def test_a_measured_clock_has_nothing_to_forecast(tmp_path: Path):
    with pytest.raises(UserError, match=r"clock: measured .* nothing to forecast before; .*--set clock=virtual"):
        forecasts(tmp_path, {"clock": "measured", "host_device": "jetson-nano"})


def test_a_wrong_method_is_told(tmp_path: Path):
    with pytest.raises(ConfigError, match="fedknow"):
        forecasts(tmp_path, {}, ["fedknov"])
