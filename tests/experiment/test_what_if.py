"""A replay equals a fresh run wherever it claims to be one, to the bit; and it says so where it cannot be one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small import TEXT, run_small, tables, without_models, write_config

from fedknow_ray.errors import RunDirectoryError, UserError
from fedknow_ray.experiment.run import execute
from fedknow_ray.experiment.what_if import HOST, TRAINING, Totals, what_if, write_replayed
from fedknow_ray.results.run import Run, load
from fedknow_ray.results.schema import TABLES
from fedknow_ray.simulation.device import DeviceError

FEDKNOW = TEXT.replace("{name: fedavg}", "{name: fedknow, variant: paper}").replace(
    "rounds_per_task: 1", "rounds_per_task: 2"
)
#: A board of a tenth of the memory that a visit of the small config needs.
TIGHT = """\
name: tight-nano
inherits: jetson-nano
memory_bytes: {value: 1_000_000, basis: estimated, source: this test, formula: chosen to be too small}
"""
NO_STORAGE = """\
name: no-storage
inherits: jetson-nano
storage_bandwidth_bytes_per_s: null
"""

EASY = {
    "nothing": {},
    "links": {"network.uplink_bytes_per_s": 2e5, "network.downlink_bytes_per_s": 3e6, "network.jitter_s": 0.2},
    "shared links with losses": {
        "network.server_downlink_bytes_per_s": 4e5,
        "network.framing": {},
        "network.loss_fraction": 0.1,
        "fleet.1.uplink_bytes_per_s": 1e4,
    },
    "devices": {"fleet.0.device": "jetson-agx-xavier", "fleet.1.device": "jetson-nano"},
    "a deadline that nobody misses": {"policy": {"name": "deadline", "deadline_s": 1e5, "over_selection": 1.0}},
    "all join later": {"fleet.0.joins_at_s": 50, "fleet.1.joins_at_s": 50, "on_out_of_memory": "drop_client"},
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("recorded")
    return execute(write_config(folder, FEDKNOW), backend="local", out=folder / "run")


@pytest.mark.parametrize("overrides", EASY.values(), ids=EASY)
def test_a_replay_is_a_fresh_run(recorded: Run, overrides: Mapping[str, Any], tmp_path: Path):
    fresh = execute(write_config(tmp_path, FEDKNOW), overrides, backend="local", out=tmp_path / "fresh")
    answer = what_if(recorded.path, overrides)
    assert answer.valid, answer.reason
    replayed = load(write_replayed(answer, tmp_path / "replayed"))
    for name, table in tables(fresh).items():
        assert without_models(tables(replayed)[name]).equals(without_models(table)), name
    differing = {"run_dir", "wall_s"}
    assert fresh.summary is not None
    assert replayed.summary is not None
    assert {k: v for k, v in replayed.summary.items() if k not in differing} == {
        k: v for k, v in fresh.summary.items() if k not in differing
    }
    assert replayed.config == fresh.config
    for entry in ("devices", "estimated_device_fields", "digests"):
        assert replayed.manifest[entry] == fresh.manifest[entry]


def test_a_change_without_effect_gives_the_recorded_numbers(recorded: Run):
    answer = what_if(recorded.path, {"network.latency_s": 0.02, "seed": 1})
    assert answer.changes == ()
    assert answer.plain()["replayed"] == answer.plain()["recorded"]
    assert recorded.summary is not None
    assert answer.plain()["recorded"]["energy_j"] == recorded.summary["energy_j"]
    assert answer.replayed is not None
    assert answer.replayed.tables["visits"].equals(recorded.visits)


def test_a_replay_of_a_method_that_refines_or_sends_nothing(tmp_path: Path):
    for name, method in (
        ("refines", {"name": "fedknow", "second_use": "after_aggregation"}),
        ("alone", {"name": "local"}),
    ):
        run = run_small(tmp_path / name, {"method": method})
        overrides = {"method": method, "network.downlink_bytes_per_s": 3e4, "fleet.0.device": "jetson-tx2"}
        fresh = run_small(tmp_path / f"{name}-fresh", overrides)
        answer = what_if(run.path, {key: overrides[key] for key in overrides if key != "method"})
        assert answer.replayed is not None, answer.reason
        for table in ("visits", "rounds", "events"):
            drop = [column for column in ("host_wall_s", "host_cpu_s") if table == "visits"]
            told = without_models(answer.replayed.tables[table].drop_columns(drop))
            assert told.equals(without_models(tables(fresh)[table])), (name, table)


def test_lost_visits_are_replayed_too(tmp_path: Path):
    failures = {"failures.schedule": [{"client": 0, "task": 0, "round": 0, "at": 0.5}], "training.client_fraction": 1.0}
    run = run_small(tmp_path / "lossy", failures)
    fresh = run_small(tmp_path / "fresh", {**failures, "network.uplink_bytes_per_s": 5e4})
    answer = what_if(run.path, {"network.uplink_bytes_per_s": 5e4})
    assert answer.replayed is not None, answer.reason
    assert "failed" in answer.replayed.tables["visits"]["status"].to_pylist()
    columns = ["client_id", "status", "download_s", "compute_s", "upload_s", "upload_bytes", "flops", "energy_j"]
    assert answer.replayed.tables["visits"].select(columns).equals(fresh.visits.select(columns))


def test_a_deadline_that_drops_a_client_needs_retraining(recorded: Run):
    """The first round takes longer than 1 ms, so its first client is late."""
    policy = {"name": "deadline", "deadline_s": 0.001, "over_selection": 1.0}
    answer = what_if(recorded.path, {"policy": policy})
    assert (answer.valid, answer.replayed) == (False, None)
    first = min(recorded.rounds["clients"][0].as_py())
    assert answer.reason == (
        f"client {first}'s training visit in task 0, round 0 would come to the status late, and came to ok"
    )


def test_failures_and_merging_in_another_way_need_retraining(recorded: Run):
    failing = what_if(recorded.path, {"failures.schedule": [{"client": 0, "task": 1, "round": 1, "at": 0.5}]})
    cohorts = recorded.rounds["clients"].to_pylist()
    assert failing.valid is (0 not in cohorts[3])
    fedasync = {"policy": {"name": "fedasync", "concurrency": 1}}
    assert not what_if(recorded.path, fedasync).valid


def test_clients_that_leave_need_retraining(recorded: Run):
    answer = what_if(recorded.path, {"fleet.0.leaves_at_s": 0.001, "fleet.1.leaves_at_s": 0.001})
    assert answer.reason is not None
    assert "no client that could visit is ever on again" in answer.reason


def test_more_clients_than_were_recorded_need_retraining(recorded: Run):
    answer = what_if(recorded.path, {"policy": {"name": "deadline", "deadline_s": 1e5, "over_selection": 2.0}})
    assert answer.reason is not None
    assert "and the run has none" in answer.reason


@pytest.mark.parametrize(
    "overrides",
    [
        {"seed": 2},
        {"training.local_epochs": 2},
        {"method.name": "fedavg"},
        {"scenario.samples_per_client": 10},
        {"compression": {"name": "float16"}},
        {"model.head": "global"},
    ],
    ids=str,
)
def test_what_is_learnt_needs_retraining(recorded: Run, overrides: Mapping[str, Any]):
    answer = what_if(recorded.path, overrides)
    assert not answer.valid
    assert str(answer.reason).split(".")[0].split()[0] in TRAINING
    assert str(answer.reason).endswith("decides what is learnt")


def test_a_device_of_ones_own_is_read_and_its_memory_counts(recorded: Run, tmp_path: Path):
    (tmp_path / "tight-nano.yaml").write_text(TIGHT)
    overrides = {"devices_path": str(tmp_path), "fleet.0.device": "tight-nano"}
    answer = what_if(recorded.path, overrides)
    assert answer.reason is not None
    assert "would come to the status out_of_memory, and came to ok" in answer.reason


def test_a_device_without_a_number_is_refused(recorded: Run, tmp_path: Path):
    (tmp_path / "no-storage.yaml").write_text(NO_STORAGE)
    with pytest.raises(DeviceError, match="'no-storage' has no storage_bandwidth_bytes_per_s"):
        what_if(recorded.path, {"devices_path": str(tmp_path), "fleet.0.device": "no-storage"})


def test_the_runs_own_devices_need_no_file(tmp_path: Path):
    """Unless `devices_path` itself is changed; then its files count."""
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    (own / "mine.yaml").write_text("name: mine\ninherits: jetson-nano\n")
    text = TEXT.replace("jetson-nano", "mine") + f"devices_path: {own}\n"
    run = execute(write_config(tmp_path, text), backend="local", out=tmp_path / "run")
    own.rename(other)
    unchanged = what_if(run.path, {"network.latency_s": 0.05})
    assert unchanged.valid
    (other / "mine.yaml").write_text("name: mine\ninherits: jetson-agx-xavier\n")
    changed = what_if(run.path, {"devices_path": str(other)})
    assert changed.replayed is not None
    assert changed.replayed.by_device()["mine"].compute_s < unchanged.recorded.by_device()["mine"].compute_s


@pytest.mark.parametrize("key", [key for key in HOST if key != "placement"] + ["placement.clients_per_actor"])
def test_keys_of_the_host_are_refused(recorded: Run, key: str):
    key = "recovery.losses_in_a_row" if key == "recovery" else key
    value = {
        "clock": "measured",
        "host_device": "jetson-nano",
        "placement.clients_per_actor": 2,
        "recovery.losses_in_a_row": 5,
    }[key]
    extra = {"clock": "measured"} if key == "host_device" else {"host_device": "jetson-nano"} if key == "clock" else {}
    with pytest.raises(UserError, match="is about the host that makes a run"):
        what_if(recorded.path, {key: value, **extra})


def test_an_unfinished_run_is_refused(recorded: Run, tmp_path: Path):
    shutil.copytree(recorded.path, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    with pytest.raises(RunDirectoryError, match="the run did not finish, and only a finished one can be replayed"):
        what_if(tmp_path / "run")


def test_a_run_that_cannot_be_told_from_its_record_is_refused(recorded: Run, tmp_path: Path):
    shutil.copytree(recorded.path, tmp_path / "run")
    path = tmp_path / "run" / "visits.parquet"
    visits = pq.read_table(path)
    at = visits.column_names.index("upload_s")
    longer = pa.array([value + 1.0 for value in visits["upload_s"].to_pylist()])
    pq.write_table(visits.set_column(at, TABLES["visits"].field("upload_s"), longer), path)
    with pytest.raises(
        RunDirectoryError, match=r"told again, it is not what was recorded, in visits \(row 0, upload_s"
    ):
        what_if(tmp_path / "run")


def test_the_replayed_run_says_where_it_is_from(recorded: Run, tmp_path: Path):
    overrides = {"network.latency_s": 0.5, "fleet.0.device": "jetson-tx2"}
    replayed = load(write_replayed(what_if(recorded.path, overrides), tmp_path / "out"))
    origin = replayed.manifest["replayed_from"]
    assert origin["run_dir"] == str(recorded.path.resolve())
    assert origin["changes"]["network.latency_s"] == [0.02, 0.5]
    assert set(replayed.placement["device"].to_pylist()) == {"jetson-tx2", "raspberry-pi-4-4gb"}
    again = what_if(replayed.path, {"network.latency_s": 0.02, "fleet.0.device": "jetson-nano"})
    assert again.replayed is not None
    assert again.replayed.tables["visits"].equals(recorded.visits)
    json.dumps(again.plain(), allow_nan=False)


def test_an_answer_without_a_replay_is_not_written(recorded: Run, tmp_path: Path):
    with pytest.raises(UserError, match="retraining is needed, seed decides what is learnt"):
        write_replayed(what_if(recorded.path, {"seed": 2}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_totals_are_sums_and_unknown_joules_stay_unknown(recorded: Run):
    visits = recorded.visits
    assert Totals.of(visits).upload_bytes == sum(visits["upload_bytes"].to_pylist())
    at = visits.column_names.index("energy_j")
    unknown = visits.set_column(at, visits.schema.field(at), pa.nulls(visits.num_rows, pa.float64()))
    assert Totals.of(unknown).energy_j is None
