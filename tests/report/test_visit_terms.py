"""The terms of recorded visits sum up to the recorded columns, to the bit; what cannot be told is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedknow_ray.errors import RunDirectoryError
from fedknow_ray.experiment.run import execute
from fedknow_ray.report.visit_choice import NoSuchVisit, choose_visits
from fedknow_ray.report.visit_terms import explain_visit
from fedknow_ray.results.run import Run
from fedknow_ray.simulation.link import transfer_s

TEXT = """\
seed: 1
scenario:
  {dataset: digits, tasks: 2, classes_per_task: 2, clients: 3, samples_per_client: 20,
   partition: {name: shards, shards_per_client: 2}}
method: {name: fedavg}
training: {rounds_per_task: 1, client_fraction: 0.7, local_epochs: 1, batch_size: 8}
fleet: [{device: jetson-nano, count: 2}, {device: raspberry-pi-4-4gb, count: 1}]
"""
FEDKNOW = {"method": {"name": "fedknow", "variant": "paper", "second_use": "after_aggregation"}}
NETWORK = {
    "network.jitter_s": 0.1,
    "network.framing": {"mtu_bytes": 1500},
    "network.loss_fraction": 0.1,
    "fleet.1.uplink_bytes_per_s": 5e5,
}


def go(folder: Path, text: str, changes: dict[str, Any]) -> Run:
    path = folder / "small.yaml"
    path.write_text(text)
    return execute(path, changes, backend="local", out=folder / "run")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three clients, FedKNOW with a refining visit, links with all that is drawn, and a link of its own for one."""
    return go(tmp_path_factory.mktemp("explained"), TEXT, {**FEDKNOW, **NETWORK})


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """FedAvg over a link of the server's, on a device without both wattages; one visit fails."""
    text = TEXT.replace("raspberry-pi-4-4gb", "laptop-i3-1315u")
    changes = {
        "network.server_downlink_bytes_per_s": 1e6,
        "failures": {"schedule": [{"client": 0, "task": 1, "round": 0, "at": 0.9}]},
        "training.client_fraction": 1.0,
    }
    return go(tmp_path_factory.mktemp("shared"), text, changes)


def test_the_items_sum_up_to_the_recorded_columns(run: Run):
    for row in run.visits.to_pylist():
        visit = explain_visit(run, row)
        assert visit.modelled
        assert visit.planned_s == row["compute_s"]
        assert sum(terms.item.count * terms.item.flops for terms in visit.items) == row["flops"]
        assert sum(terms.item.count * terms.item.moved_bytes for terms in visit.items) == row["moved_bytes"]


def test_the_transfers_are_what_their_terms_give(run: Run):
    for row in run.visits.to_pylist():
        visit = explain_visit(run, row)
        for terms, seconds in ((visit.download, row["download_s"]), (visit.upload, row["upload_s"])):
            assert terms.told is None
            assert terms.bytes_per_s is not None
            assert transfer_s(terms.wire_bytes, terms.bytes_per_s, terms.delay_s) == seconds == terms.seconds
            assert terms.wire_bytes > terms.payload_bytes or not terms.payload_bytes


def test_a_client_has_the_link_of_its_entry_of_the_fleet(run: Run):
    rates = {
        row["client_id"]: explain_visit(run, row).upload.bytes_per_s
        for row in run.visits.to_pylist()
        if row["upload_bytes"]
    }
    assert {client: rate for client, rate in rates.items() if rate != (5e5 if client == 2 else 1e6)} == {}


def test_energy_is_the_sum_of_computing_and_of_all_else(run: Run):
    for row in run.visits.to_pylist():
        visit = explain_visit(run, row)
        assert visit.busy_j is not None
        assert visit.idle_j is not None
        assert visit.busy_j + visit.idle_j == row["energy_j"]


def test_knowledge_and_evaluation_are_items_with_their_device_numbers(run: Run):
    (row,) = choose_visits(run, 0, 1, 1)
    visit = explain_visit(run, row)
    bounds = {terms.item.phase: terms.bound for terms in visit.items}
    assert {"evaluate", "prune", "store"} <= bounds.keys()
    assert bounds["store"] == "storage"
    assert visit.figures["storage_bandwidth_bytes_per_s"].basis == "estimated"


def test_only_the_numbers_that_are_used_are_told(shared: Run):
    (row,) = choose_visits(shared, 2, 0)
    figures = explain_visit(shared, row).figures
    assert "storage_bandwidth_bytes_per_s" not in figures
    assert {"sustained_flops_per_s", "utilisation.small_cnn", "step_overhead_s"} <= figures.keys()


def test_energy_is_unknown_without_both_wattages(shared: Run):
    (row,) = choose_visits(shared, 2, 0)
    visit = explain_visit(shared, row)
    assert (visit.busy_j, visit.idle_j, row["energy_j"]) == (None, None, None)


def test_a_shared_link_is_told_and_not_computed(shared: Run):
    (row,) = choose_visits(shared, 2, 0)
    upload = explain_visit(shared, row).upload
    assert (upload.bytes_per_s, upload.seconds) == (None, row["upload_s"])
    assert upload.told == "shares the server's 1e+06 bytes/s with the transfers beside it"


def test_a_lost_visit_has_spent_what_it_has_spent(shared: Run):
    (row,) = choose_visits(shared, 0, 1)
    visit = explain_visit(shared, row)
    assert row["status"] == "failed"
    assert not visit.modelled
    assert visit.upload.told == "as far as it came"


def test_seconds_of_another_version_are_refused_with_both(run: Run):
    (row,) = choose_visits(run, 0, 1, 1)
    with pytest.raises(RunDirectoryError, match=r"the visit took 99\.5 s, and by the cost model .* with the version"):
        explain_visit(run, {**row, "compute_s": 99.5})


def test_a_run_that_does_not_say_what_its_devices_were_is_refused(run: Run):
    (row,) = choose_visits(run, 0, 1, 1)
    with pytest.raises(RunDirectoryError, match="does not say what the device 'jetson-nano' was"):
        explain_visit(replace(run, manifest={}), row)


def test_rounds_are_counted_over_the_run_or_within_a_task(run: Run):
    """One round a task: round 1 of the run is round 0 of task 1, and round 1 of a task is its end."""
    client = run.visits.filter(run.visits["task_index"].to_numpy() == 1)["client_id"][0].as_py()
    assert choose_visits(run, client, 1) == choose_visits(run, client, 0, 1)
    assert [row["kind"] for row in choose_visits(run, client, 1)] == ["train", "refine"]
    assert [row["kind"] for row in choose_visits(run, client, 1, 1)] == ["finish_task"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((3, 0), "there is no client 3; the clients are 0 to 2"),
        ((-1, 0), "there is no client -1; the clients are 0 to 2"),
        ((0, 2), "there is no round 2; the run has rounds 0 to 1"),
        ((0, -1), "there is no round -1; the run has rounds 0 to 1"),
        ((0, 0, 2), "there is no task 2; the run has tasks 0 to 1"),
        ((0, 2, 1), "there is no round 2 of task 1; it has rounds 0 to 1, its end included"),
    ],
)
def test_what_the_run_does_not_have_is_refused_with_the_valid_range(run: Run, asked: tuple[int, ...], message: str):
    with pytest.raises(NoSuchVisit) as caught:
        choose_visits(run, *asked)
    assert str(caught.value) == message


def test_a_client_outside_the_cohort_is_told_its_rounds(run: Run):
    trained = {(row["client_id"], row["task_index"]) for row in run.visits.to_pylist() if row["kind"] == "train"}
    client, task = next((c, t) for c in range(3) for t in range(2) if (c, t) not in trained)
    with pytest.raises(NoSuchVisit, match=f"client {client} made no visit in round {task}; it made "):
        choose_visits(run, client, task)
