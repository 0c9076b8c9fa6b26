"""From the calm run and a stress to the stressed config: by hand, and that each stress that ships is felt."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path

import pyarrow as pa
import pytest
from small import TEXT, write_config

from fedknow_ray.config.model import FleetEntry, RunConfig
from fedknow_ray.config.yaml import format_yaml
from fedknow_ray.experiment.assembly import open_data, put_together
from fedknow_ray.experiment.catalogue import devices_with
from fedknow_ray.experiment.run import read_config
from fedknow_ray.experiment.stress import calm_of, tell
from fedknow_ray.experiment.stress_card import Toll, feels, toll_of
from fedknow_ray.experiment.stress_config import Calm, stressed_config, trace_text
from fedknow_ray.experiment.stress_file import Stress, read_stresses
from fedknow_ray.results.schema import VISITS
from fedknow_ray.simulation.trace import BandwidthTrace, parse_trace, read_trace

INPUTS = Path("inputs")


@pytest.fixture
def calm(tmp_path: Path) -> Calm:
    """The small config (2 jetson-nano, 1 raspberry-pi-4-4gb), in calm 100 s long with a peak of 1,000 bytes."""
    config = read_config(write_config(tmp_path))
    return Calm(config, time_s=100.0, peak_memory_bytes=1000, device=devices_with(None).get)


def stress(**what: object) -> Stress:
    tree = {"name": "heat", "title": "T", "does": "D.", "differs_in": "time_ratio", **what}
    return Stress.model_validate_json(json.dumps(tree))


def test_set_replaces_a_value_and_add_appends_with_times_of_the_calm_run(calm: Calm):
    made = stressed_config(
        stress(
            set={"network.latency_s": "0.01 run", "availability": {"name": "markov", "mean_on_s": "0.5 run"}},
            add={"outages": [{"fraction": 0.5, "from_s": "0.25 run", "to_s": 60}]},
        ),
        calm,
        INPUTS,
    )
    assert made.files == {}
    expected = calm.config.to_dict()
    expected["network"]["latency_s"] = 1.0
    expected["availability"] = {"name": "markov", "mean_on_s": 50.0}
    expected["outages"] = [{"fraction": 0.5, "from_s": 25.0, "to_s": 60}]
    assert made.config == expected


def test_the_configs_own_outages_stay(calm: Calm):
    own = {"fraction": 0.4, "from_s": 1.0, "to_s": 2.0, "clients": None, "devices": None}
    config = RunConfig.model_validate({**dict(calm.config), "outages": (own,)})
    made = stressed_config(stress(add={"outages": [{"fraction": 1}]}), _with(calm, config), INPUTS)
    assert made.config["outages"] == [own, {"fraction": 1}]


def test_the_changed_clients_are_the_last_of_each_entry(calm: Calm):
    change = {"share": 0.6, "link": [{"at": "0 run", "factor": 0.5}]}
    fleet = stressed_config(stress(clients=change), calm, INPUTS).config["fleet"]
    assert [(entry["device"], entry["count"], "uplink_trace" in entry) for entry in fleet] == [
        ("jetson-nano", 1, False),
        ("jetson-nano", 1, True),
        ("raspberry-pi-4-4gb", 1, True),
    ]


def test_a_slower_board_has_a_file_of_its_own(calm: Calm, tmp_path: Path):
    """A Jetson Nano trains at 115e9 FLOP/s, moves 25.6e9 bytes/s and takes 2.1 ms beside."""
    made = stressed_config(stress(clients={"share": 0.3, "speed": 0.5}), calm, tmp_path / "inputs")
    for path, text in made.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert [entry["device"] for entry in made.config["fleet"]] == [
        "jetson-nano", "jetson-nano-heat", "raspberry-pi-4-4gb",
    ]  # fmt: skip
    device = devices_with(Path(made.config["devices_path"])).get("jetson-nano-heat")
    assert device.sustained_flops_per_s == 57.5e9
    assert device.memory_bandwidth_bytes_per_s == 12.8e9
    assert device.step_overhead_s == 4.2e-3
    assert device.memory_bytes == devices_with(None).get("jetson-nano").memory_bytes
    (tmp_path / "made.yaml").write_text(format_yaml(made.config))
    assert read_config(tmp_path / "made.yaml").devices[1] == "jetson-nano-heat"


def test_squeezed_memory_is_a_share_of_the_calm_runs_peak_and_own_device_files_come_along(calm: Calm):
    own = {"mine.yaml": "name: mine\n"}
    made = stressed_config(stress(clients={"share": 0.3, "memory_of_peak": 0.9}), _with(calm, own=own), INPUTS)
    folder = Path(made.config["devices_path"])
    assert set(made.files) == {folder / "mine.yaml", folder / "jetson-nano-heat.yaml"}
    assert "value: 900" in made.files[folder / "jetson-nano-heat.yaml"]


def test_memory_is_never_more_than_the_board_has(calm: Calm):
    large = Calm(calm.config, calm.time_s, 2**40, calm.device)
    made = stressed_config(stress(clients={"share": 0.3, "memory_of_peak": 1.0}), large, INPUTS)
    (text,) = made.files.values()
    assert "memory_bytes" not in text


def test_changed_links_have_traces_in_the_place_of_their_rates(calm: Calm):
    entry = FleetEntry(device="jetson-nano", count=3, uplink_bytes_per_s=500.0, latency_s=0.1)
    change = {"share": 1, "link": [{"at": "0 run", "factor": 1}, {"at": "0.3 run", "factor": 0.1}]}
    config = RunConfig(**{**dict(calm.config), "fleet": (entry,)})
    made = stressed_config(stress(clients=change), _with(calm, config), INPUTS)
    (plain,) = made.config["fleet"]
    assert set(plain) == {"device", "count", "latency_s", "uplink_trace", "downlink_trace"}
    assert made.files[Path(plain["uplink_trace"])] == "time_s,bytes_per_s\n0.0,500.0\n30.0,50.0\n"
    assert made.files[Path(plain["downlink_trace"])] == "time_s,bytes_per_s\n0.0,1000000.0\n30.0,100000.0\n"


def test_repeated_steps_end_at_five_times_the_calm_run(calm: Calm):
    change = {
        "share": 1,
        "link": [{"at": "0 run", "factor": 1}, {"at": "1 run", "factor": 0}],
        "repeat_every": "2 run",
    }
    made = stressed_config(stress(clients=change), calm, INPUTS)
    trace = parse_trace(next(iter(made.files.values())), "made")
    assert trace.times_s == (0, 100, 200, 300, 400)
    assert trace.rates_bytes_per_s == (1e6, 0, 1e6, 0, 1e6)


def test_a_trace_of_the_configs_own_is_multiplied():
    own = BandwidthTrace((0.0, 10.0, 40.0), (100.0, 0.0, 50.0))
    text = trace_text(own, [(0.0, 1.0), (0.1, 0.5), (0.6, 2.0)], run_s=100.0)
    trace = parse_trace(text, "made")
    assert trace.times_s == (0, 10, 40, 60)
    assert trace.rates_bytes_per_s == (100, 0, 25, 100)


def test_another_content_is_another_config(calm: Calm):
    def path(share: float) -> str:
        change = {"share": 0.3, "memory_of_peak": share}
        return str(stressed_config(stress(clients=change), calm, INPUTS).config["devices_path"])

    assert path(0.5) == path(0.5) != path(0.6)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, tuple[str, ...]], bool]:
    """Tell calm and stressed runs on 4 clients without training, and return whether a stress is felt."""
    folder = tmp_path_factory.mktemp("told")
    text = TEXT.replace("clients: 3", "clients: 4").replace("rounds_per_task: 1", "rounds_per_task: 6")
    path = write_config(folder, text.replace("count: 1", "count: 2"))
    data = open_data(read_config(path))
    of_calm = cache(lambda overrides: calm_of(read_config(path, overrides)))

    def toll(config: RunConfig) -> Toll:
        flights, time_s = tell(put_together(config, data))
        return toll_of(pa.Table.from_pylist([asdict(f.row(None)) for f in flights], schema=VISITS), time_s)

    def felt(name: str, overrides: tuple[str, ...]) -> bool:
        calm = of_calm(overrides)
        stress = read_stresses([name])[name]
        made = stressed_config(stress, calm, folder / "inputs")
        for file, content in made.files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        (folder / "stressed.yaml").write_text(format_yaml(made.config))
        return feels(stress.differs_in, toll(calm.config), toll(read_config(folder / "stressed.yaml")))

    return felt


@pytest.mark.parametrize(
    ("name", "method"), [*((name, "fedknow") for name in read_stresses()), ("memory_squeeze", "fedavg")]
)
def test_each_shipped_stress_is_felt_in_the_column_that_it_names(told, name: str, method: str):
    assert told(name, (f"method.name={method}",))


def test_traces_that_ship_in_a_stress_can_be_read(calm: Calm, tmp_path: Path):
    made = stressed_config(read_stresses(["flapping_link"])["flapping_link"], calm, tmp_path)
    for path, text in made.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        assert len(read_trace(path).times_s) == 2 * 250 + 1


def _with(calm: Calm, config: RunConfig | None = None, own: dict[str, str] | None = None) -> Calm:
    return Calm(config or calm.config, calm.time_s, calm.peak_memory_bytes, calm.device, own or {})
