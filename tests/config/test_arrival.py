"""`task_arrival` and `scenario.task_order`: what may be said, what it means, and what is refused."""

from __future__ import annotations

import pytest

from fedknow_ray.errors import ConfigError


def faults(load, text: str) -> list[tuple[str, str]]:
    with pytest.raises(ConfigError) as caught:
        load(text)
    return [(fault.key, fault.message) for fault in caught.value.faults]


@pytest.mark.parametrize("text", ["seed: 1", "task_arrival: {}", "task_arrival: {lockstep: true}"])
def test_lockstep_unless_said_otherwise(load, text: str):
    config = load(text)
    assert config.task_arrival.in_lockstep
    assert config.to_dict()["task_arrival"] == {"lockstep": True}


def test_a_beat_is_a_duration(load):
    config = load("task_arrival: {every_s: 1 h}")
    assert not config.task_arrival.in_lockstep
    assert config.to_dict()["task_arrival"] == {"every_s": 3600.0}


def test_a_trace_is_a_path(load):
    assert load("task_arrival: {trace: arrivals.csv}").to_dict()["task_arrival"] == {"trace": "arrivals.csv"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{every_s: 1, trace: a.csv}", "must be one of lockstep, every_s and trace, got every_s and trace; keep one"),
        (
            "{lockstep: false}",
            "lockstep: false does not say when tasks come; give every_s or trace in its place",
        ),
        ("soon", "must be a mapping of keys, got 'soon'"),
    ],
)
def test_what_says_nothing_or_two_things_is_refused(load, text: str, message: str):
    assert faults(load, f"task_arrival: {text}") == [("task_arrival", message)]


def test_times_do_not_run_backwards(load):
    assert faults(load, "task_arrival: {every_s: -1}") == [("task_arrival.every_s", "must be at least 0, got -1")]


def test_a_sequence_may_have_a_task_twice(load):
    scenario = load("scenario: {tasks: 2, task_order: [0, 1, 0]}").scenario
    assert (scenario.tasks, scenario.places, scenario.task_order) == (2, 3, (0, 1, 0))
    assert load("scenario: {tasks: 2, task_order: shuffled}").scenario.places == 2


def test_a_sequence_names_tasks_that_exist(load):
    message = "there is no task 2: scenario.tasks is 2, so they are 0 to 1"
    assert faults(load, "scenario: {tasks: 2, task_order: [0, 2]}") == [("scenario.task_order.1", message)]


def test_a_trace_and_a_sequence_contradict(load):
    message = "task_arrival.trace says the order of each client's tasks; leave this out"
    text = "scenario: {task_order: shuffled}\ntask_arrival: {trace: a.csv}"
    assert faults(load, text) == [("scenario.task_order", message)]


def test_by_time_each_client_is_in_a_cohort(load):
    text = "scenario: {clients: 20}\npolicy: {cohorts: [[0, 1], [2]]}\ntask_arrival: {every_s: 5}"
    ((key, message),) = faults(load, text)
    assert key == "policy.cohorts"
    assert message.startswith("client 3 is in no cohort")


def test_by_time_a_buffer_may_hold_updates_of_several_tasks(load):
    """20 clients, 10 tasks, 15 visits each: 3000 in all, where a task in lockstep has 15 rounds of 8."""
    buffered = "policy: {name: fedbuff, buffer_size: %d}\ntask_arrival: {every_s: 5}"
    assert load(buffered % 3000).policy.buffer_size == 3000
    ((key, message),) = faults(load, buffered % 3001)
    assert key == "policy.buffer_size"
    assert message.startswith("3001 updates never come together: the run has 3000 visits")
    ((_, in_lockstep),) = faults(load, "policy: {name: fedbuff, buffer_size: 121}")
    assert in_lockstep.startswith("121 updates never come together: a task has 120 visits")
