"""What the report says where a run lacks data."""

from __future__ import annotations

import dataclasses

import pytest

from fedknow_ray.report.sections import build_sections
from fedknow_ray.results import EventRow, ResultStore, RunDirectory, load


def plots_of(run):
    return {plot.name: plot for section in build_sections(run) for plot in section.plots}


def text_of(run):
    return " ".join(section.text + section.below for section in build_sections(run))


def test_run_without_a_finished_task_says_so_in_place_of_its_accuracy(run_of):
    plots = plots_of(run_of(models=(), finished=False))
    scored = ("over-tasks", "against-time", "against-energy", "against-bytes", "per-device")
    for name in (*(f"accuracy-{of}" for of in scored), "forgetting-per-device"):
        assert plots[name].figure is None
        assert "No task was finished" in plots[name].missing
    assert plots["bytes-per-round"].figure is not None


def test_run_without_a_global_model_says_so_and_shows_the_own_model(run_of):
    plots = plots_of(run_of(models=("own",)))
    assert "no scores of a global model" in plots["accuracy-over-tasks"].caption
    assert plots["accuracy-matrix-global"].figure is None
    assert "no scores of the global model" in plots["accuracy-matrix-global"].missing
    assert plots["accuracy-matrix-own"].figure is not None


def test_run_that_stopped_before_its_first_round_has_a_reason_for_every_plot(run_of):
    for plot in plots_of(run_of(tasks=0, finished=False)).values():
        assert plot.figure is None
        assert plot.missing


def test_energy_that_a_profile_does_not_give_has_no_plot(fake_run):
    plot = plots_of(fake_run)["accuracy-against-energy"]
    assert plot.figure is None
    assert plot.missing == "A device's profile gives no power, so nobody knows the joules."


def test_a_single_task_has_accuracy_and_no_forgetting_per_device(run_of):
    plots = plots_of(run_of(tasks=1))
    assert plots["accuracy-per-device"].figure is not None
    assert plots["forgetting-per-device"].figure is None
    assert plots["forgetting-per-device"].missing == "With a single task nothing can be forgotten."


def test_devices_show_the_global_model_where_there_is_no_own_one(run_of):
    assert "global model" in plots_of(run_of(models=("global",)))["accuracy-per-device"].caption


def test_what_waiting_is_depends_on_the_policy(fake_run):
    without_rounds = dataclasses.replace(fake_run, config=fake_run.config | {"policy": {"name": "fedasync"}})
    assert "until it is merged" in plots_of(without_rounds)["time-per-device"].caption
    assert "to the end of its round" in plots_of(fake_run)["time-per-device"].caption


def test_bytes_outside_of_rounds_are_told(fake_run):
    """Ten clients download 2.4 MB at the end of each of four tasks."""
    assert "Another 96.0 MB" in plots_of(fake_run)["bytes-per-round"].caption


def test_run_without_events_says_that_nothing_happened(run_of):
    assert "Nothing out of the ordinary" in text_of(run_of(events=False))


def test_estimated_numbers_are_named_by_device(fake_run):
    text = text_of(fake_run)
    assert "<strong>jetson-tx2</strong>: sustained_flops_per_s" in text
    assert "<strong>raspberry-pi-4-4gb</strong>" not in text


@pytest.mark.parametrize("nothing", [None, {}, [], {"jetson-nano": []}])
def test_no_note_where_no_number_is_estimated(fake_run, nothing):
    run = dataclasses.replace(fake_run, manifest={"estimated_device_fields": nothing})
    assert "estimated" not in text_of(run)


def test_estimated_numbers_may_come_as_a_plain_list(fake_run):
    run = dataclasses.replace(fake_run, manifest={"estimated_device_fields": ["a.power_w", "<b>"]})
    assert "<li>a.power_w, &lt;b&gt;</li>" in text_of(run)


def test_placement_and_host_seconds_are_told(fake_run):
    text = text_of(fake_run)
    assert "10 clients in 10 processes on 1 node" in text
    assert "168 visits took" in text


def test_integrated_steps_are_counted_by_task(run_of):
    """8 rounds of 4 visits with 48 steps each; 20 of the 48 were changed."""
    section = next(section for section in build_sections(run_of()) if section.title == "Gradient integration")
    assert section.below.count("1,536") == 4
    assert section.below.count("41.7%") == 4


def test_a_methods_own_figures_stay_out_of_the_events(run_of):
    run = run_of()
    figures = EventRow(3.0, "method_figures", 1, '{"task_index": 1, "kind": "train", "violated_after_steps": 768}')
    store = ResultStore(RunDirectory(run.path))
    store.append([figures, EventRow(4.0, "memory_exceeded", 3, "{}")])
    store.flush()
    sections = {section.title: section for section in build_sections(load(run.path))}
    assert "method_figures" not in sections["Events"].below
    assert "1 records of a method" in sections["Events"].text
