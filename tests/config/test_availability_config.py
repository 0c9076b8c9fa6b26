"""The sections `availability`, `outages` and `failures`: what they hold, and every fault with its key."""

import json
from dataclasses import dataclass

import pytest
from pydantic import ValidationError

from fedknow_ray.config.availability import (
    SHORTEST_S,
    AlwaysAvailability,
    AvailabilityConfig,
    DutyCycleAvailability,
    FailuresConfig,
    MarkovAvailability,
    OutageConfig,
    availability_findings,
    failure_findings,
    membership_findings,
    outage_findings,
)
from fedknow_ray.config.explain import explain
from fedknow_ray.config.fields import Frozen
from fedknow_ray.config.yaml import key_text, parse_yaml
from fedknow_ray.simulation import availability_pattern


class Sections(Frozen):
    """The sections as a config has them."""

    availability: AvailabilityConfig = AlwaysAvailability()
    outages: tuple[OutageConfig, ...] = ()
    failures: FailuresConfig = FailuresConfig()


def read(text):
    return Sections.model_validate_json(json.dumps(parse_yaml(text).value or {}), strict=True)


def faults(text):
    with pytest.raises(ValidationError) as caught:
        read(text)
    return {key_text(path): message for path, message in explain(caught.value, Sections, parse_yaml(text).value)}


def told(findings):
    return {key_text(path): message for path, message in findings}


@dataclass(frozen=True)
class Entry:
    device: str = "nano"
    count: int = 1
    joins_at_s: float | None = None
    leaves_at_s: float | None = None


def test_the_defaults_change_nothing():
    assert Sections().model_dump(mode="json") == {
        "availability": {"name": "always"},
        "outages": [],
        "failures": {"probability": 0.0, "schedule": [], "bad_updates": []},
    }


def test_durations_may_have_units():
    cycle = read("availability: {name: duty_cycle, period_s: 1 d, on_s: 8 h, offset_s: 22 h}").availability
    assert cycle == DutyCycleAvailability(period_s=86400, on_s=28800, offset_s=79200)
    chain = read("availability: {name: markov, mean_on_s: 2 h, mean_off_s: 90}").availability
    assert chain == MarkovAvailability(mean_on_s=7200, mean_off_s=90)


@pytest.mark.parametrize(
    ("text", "offset_s"), [("random", "random"), ("5", 5.0), ("[0, 1 min]", (0.0, 60.0)), ("20 ms", 0.02)]
)
def test_an_offset_is_of_all_clients_of_each_or_drawn(text, offset_s):
    cycle = read(f"availability: {{name: duty_cycle, period_s: 100, on_s: 50, offset_s: {text}}}").availability
    assert cycle.offset_s == offset_s


def test_a_config_is_read_back_as_it_was_written():
    text = """
    availability: {name: duty_cycle, period_s: 10, on_s: 5, offset_s: [0, 5]}
    outages: [{clients: [1], from_s: 0, to_s: 9}, {devices: [nano], from_s: 1, to_s: 2}]
    failures: {probability: 0.1, schedule: [{client: 1, task: 0, round: 3, at: 0.5}]}
    """
    config = read(text)
    assert Sections.model_validate_json(config.model_dump_json(), strict=True) == config


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "availability: {name: marcov}",
            {"availability.name": "unknown availability 'marcov'; did you mean 'markov'?"},
        ),
        (
            "availability: {name: markov, mean_on_s: 0, mean_of_s: 3}",
            {
                "availability.mean_on_s": "must be at least 0.001, got 0",
                "availability.mean_of_s": "unknown key; did you mean 'mean_off_s'?",
                "availability.mean_off_s": "is missing",
            },
        ),
        (
            "availability: {name: duty_cycle, period_s: 1 parsec, on_s: -1, offset_s: often}",
            {
                "availability.period_s": "unknown unit 'parsec' in '1 parsec'; use ns, us, ms, s, min, h or d",
                "availability.on_s": "must be at least 0, got -1",
                "availability.offset_s": "must be random, a time such as 20 or '1 h', or a list of times, got 'often'",
            },
        ),
        (
            "availability: {name: duty_cycle, period_s: 9, on_s: 3, offset_s: [0, -1]}",
            {"availability.offset_s": "must be at least 0, got -1"},
        ),
        ("availability: {name: trace}", {"availability.file": "is missing"}),
        (
            "outages: [{from_s: -1, clients: [1, 1], fraction: 2}]",
            {
                "outages.0.from_s": "must be at least 0, got -1",
                "outages.0.to_s": "is missing",
                "outages.0.clients": "names a client twice: 1, 1",
                "outages.0.fraction": "must be at most 1, got 2",
            },
        ),
        (
            "failures: {bad_updates: [{client: 0, task: 0, round: -1, sends: rubbish}]}",
            {
                "failures.bad_updates.0.round": "must be at least 0, got -1",
                "failures.bad_updates.0.sends": "must be 'nan', 'wrong_shape', 'huge' or 'garbage', got 'rubbish'",
            },
        ),
        (
            "failures: {probability: 1, schedule: [{client: -1, task: 0, round: 0, at: 1}]}",
            {
                "failures.probability": "must be less than 1, got 1",
                "failures.schedule.0.client": "must be at least 0, got -1",
                "failures.schedule.0.at": "must be less than 1, got 1",
            },
        ),
    ],
)
def test_all_faults_of_a_section_are_told_with_their_keys(text, expected):
    found = faults(text)
    assert {key: message for key, message in found.items() if key in expected} == expected
    assert found.keys() == expected.keys()


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"period_s": 10, "on_s": 4}, {}),
        ({"period_s": 10, "on_s": 10, "offset_s": [1, 2, 3]}, {}),
        (
            {"period_s": 10, "on_s": 12, "offset_s": [1, 2]},
            {
                "availability.on_s": "12 s is longer than the period of 10 s; lower it",
                "availability.offset_s": "has 2 offsets for the 3 clients (scenario.clients); give each client one",
            },
        ),
        (
            {"period_s": 10, "on_s": 9.9999},
            {
                "availability.on_s": "9.999900 of 10.000000 s leaves less than 0.001 s off; give the whole period, or "
                "leave more"
            },
        ),
    ],
)
def test_what_does_not_go_together_in_a_duty_cycle(keys, expected):
    assert told(availability_findings(DutyCycleAvailability(**keys), 3)) == expected


def test_other_models_have_nothing_that_could_disagree():
    assert told(availability_findings(MarkovAvailability(mean_on_s=1, mean_off_s=1), 3)) == {}


def test_what_does_not_go_together_in_outages_is_told_all_at_once():
    outages = [
        OutageConfig(from_s=0, to_s=5, clients=(0, 3)),
        OutageConfig(from_s=5, to_s=5, clients=(0,), devices=("nano", "tx2")),
        OutageConfig(from_s=1, to_s=2),
        OutageConfig(from_s=1, to_s=2, fraction=0.1),
        OutageConfig(from_s=1, to_s=2, fraction=0.17),
    ]
    assert told(outage_findings(outages, 3, ["nano", "nano", "pi"])) == {
        "outages.0.clients.1": "there is no client 3: scenario.clients is 3, so they are 0 to 2",
        "outages.1.to_s": "5 s is not after from_s, which is 5 s",
        "outages.1": "must have one of clients, devices and fraction, but clients and devices are given",
        "outages.1.devices.1": "no client is a 'tx2'; the fleet has nano, pi",
        "outages.2": "must have one of clients, devices and fraction, but none is given",
        "outages.3.fraction": "0.1 of 3 clients is none; raise it to 0.167 or more",
    }


def test_clients_leave_after_they_join():
    fleet = [Entry(), Entry(joins_at_s=5, leaves_at_s=6), Entry(joins_at_s=5, leaves_at_s=5), Entry(leaves_at_s=0)]
    assert told(membership_findings(fleet)) == {
        "fleet.2.leaves_at_s": "5 s is not after joins_at_s, which is 5 s",
        "fleet.3.leaves_at_s": "0 s is not after the start, 0 s",
    }


def test_scheduled_failures_are_of_visits_that_there_can_be():
    schedule = [
        {"client": 2, "task": 1, "round": 4, "at": 0.5},
        {"client": 3, "task": 2, "round": 5, "at": 0.5},
        {"client": 2, "task": 1, "round": 4, "at": 0.1},
    ]
    failures = FailuresConfig(schedule=schedule)
    assert told(failure_findings(failures, clients=3, tasks=2, rounds=5)) == {
        "failures.schedule.1.client": "there is no client 3: scenario.clients is 3, so they are 0 to 2",
        "failures.schedule.1.task": "there is no task 2: scenario.tasks is 2, so they are 0 to 1",
        "failures.schedule.1.round": "there is no round 5: training.rounds_per_task is 5, so they are 0 to 4",
        "failures.schedule.2": "is the visit of entry 0 again; a visit fails once",
    }
    assert "failures.schedule.1.round" not in told(failure_findings(failures, clients=3, tasks=2, rounds=None))


def test_bad_updates_are_of_visits_that_there_can_be():
    bad_updates = [
        {"client": 0, "task": 0, "round": 0, "sends": "nan"},
        {"client": 3, "task": 2, "round": 5, "sends": "huge"},
        {"client": 0, "task": 0, "round": 0, "sends": "garbage"},
    ]
    failures = FailuresConfig(bad_updates=bad_updates, schedule=[{"client": 0, "task": 0, "round": 0, "at": 0.5}])
    assert told(failure_findings(failures, clients=3, tasks=2, rounds=5)) == {
        "failures.bad_updates.1.client": "there is no client 3: scenario.clients is 3, so they are 0 to 2",
        "failures.bad_updates.1.task": "there is no task 2: scenario.tasks is 2, so they are 0 to 1",
        "failures.bad_updates.1.round": "there is no round 5: training.rounds_per_task is 5, so they are 0 to 4",
        "failures.bad_updates.2": "is the visit of entry 0 again; a visit sends one update",
    }


def test_the_shortest_stretch_is_that_of_the_models():
    assert SHORTEST_S == availability_pattern.SHORTEST_S
