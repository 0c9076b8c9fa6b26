"""From the config's sections to the models."""

import json
import math
from dataclasses import dataclass

import pytest

from fedknow_ray.config.availability import (
    AlwaysAvailability,
    DutyCycleAvailability,
    FailuresConfig,
    MarkovAvailability,
    OutageConfig,
    TraceAvailability,
)
from fedknow_ray.errors import ConfigError
from fedknow_ray.experiment.conditions import build_availability, build_failures
from fedknow_ray.simulation.availability import AlwaysOn, Markov

ALWAYS = AlwaysAvailability()


@dataclass(frozen=True)
class Entry:
    device: str = "nano"
    count: int = 4
    joins_at_s: float | None = None
    leaves_at_s: float | None = None


def built(availability=ALWAYS, outages=(), fleet=(Entry(),), seed=1):
    return build_availability(availability, outages, fleet, seed)


def test_the_defaults_are_always_on_and_nothing_else():
    assert type(built()) is AlwaysOn
    assert build_failures(FailuresConfig(), 1).fails_at(0, 0, 0, "train") is None


@pytest.mark.parametrize(
    ("offset_s", "next_on_s"), [(3, [3, 3, 3, 3]), ([0, 1, 2, 9], [0, 1, 2, 0])], ids=["of all", "of each"]
)
def test_a_duty_cycle_with_given_offsets(offset_s, next_on_s):
    """On for 4 of 10 s; that of client 3 with an offset of 9 s began before the run and ends at 3 s."""
    model = built(DutyCycleAvailability(period_s=10, on_s=4, offset_s=offset_s))
    assert [model.next_on(c, 0) for c in range(4)] == next_on_s


def test_a_duty_cycle_with_drawn_offsets_depends_on_the_seed():
    cycle = DutyCycleAvailability(period_s=10, on_s=4)
    starts = {tuple(built(cycle, seed=seed).next_on(c, 5) for c in range(4)) for seed in (1, 2)}
    assert len(starts) == 2


def test_a_markov_chain_is_that_of_its_means_and_seed():
    model = built(MarkovAvailability(mean_on_s=30, mean_off_s=10), seed=3)
    assert model.stretch(2, 500) == Markov(mean_on_s=30, mean_off_s=10, seed=3).stretch(2, 500)


def test_a_trace_is_read_for_the_clients_of_the_fleet(tmp_path):
    file = tmp_path / "trace.json"
    file.write_text(json.dumps({"clients": [[[client, client + 1]] for client in range(4)]}))
    assert built(TraceAvailability(file=file)).next_on(3, 0) == 3
    with pytest.raises(ConfigError, match="has no trace for 1 of the 5 clients: 4"):
        built(TraceAvailability(file=file), fleet=[Entry(count=5)])


def test_outages_strike_the_clients_that_they_name():
    outages = [
        OutageConfig(from_s=1, to_s=2, clients=(0, 5)),
        OutageConfig(from_s=3, to_s=4, devices=("pi",)),
        OutageConfig(from_s=5, to_s=6, fraction=0.5),
    ]
    model = built(outages=outages, fleet=[Entry(), Entry("pi", 2)])
    on = {time_s: model.on_at(range(6), time_s) for time_s in (0, 1, 2, 3, 4, 5, 6)}
    assert on[1] == [1, 2, 3, 4]
    assert on[3] == [0, 1, 2, 3]
    assert len(on[5]) == 3
    assert on[0] == on[2] == on[4] == on[6] == [0, 1, 2, 3, 4, 5]


def test_the_clients_of_a_fraction_are_drawn_for_each_outage():
    outages = [OutageConfig(from_s=n, to_s=n + 1, fraction=0.5) for n in range(6)]
    model = built(outages=outages, fleet=[Entry(count=40)])
    struck = {tuple(model.on_at(range(40), n)) for n in range(6)}
    assert len(struck) == 6
    other = built(outages=outages, fleet=[Entry(count=40)], seed=2)
    assert other.on_at(range(40), 0) != model.on_at(range(40), 0)


def test_clients_of_an_entry_join_and_leave_together():
    model = built(fleet=[Entry(count=1), Entry(count=2, joins_at_s=10, leaves_at_s=20), Entry(count=1, leaves_at_s=5)])
    assert [model.on_at(range(4), t) for t in (0, 10, 20)] == [[0, 3], [0, 1, 2], [0]]
    assert model.next_on(1, 0) == 10
    assert model.next_on(3, 5) == math.inf
    assert not model.is_member(1, 0)


def test_failures_are_those_of_the_config():
    section = FailuresConfig(probability=0.5, schedule=[{"client": 1, "task": 2, "round": 3, "at": 0.25}])
    failures = build_failures(section, 1)
    assert failures.fails_at(1, 2, 3, "train") == 0.25
    drawn = [failures.fails_at(0, 0, r, "train") for r in range(40)]
    assert None in drawn
    assert len(set(drawn)) > 10
