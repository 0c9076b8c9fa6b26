"""FedAsync and FedBuff, computed by hand: see tests/federation/telling.py for the numbers.

Who is drawn is fixed by the seed: of clients 0 and 1 the visit 0 goes to client 1. Availability says who is there.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from fakes import PAYLOAD_BYTES, Lonely, Refining, conditions
from hypothesis import given, settings
from hypothesis import strategies as st
from telling import NEVER_AGAIN, Told, failing, off

from fedknow_ray.federation.aggregation import TreeMean, leaves_of, sum_block, total_of
from fedknow_ray.federation.asynchronous import FedAsync, FedBuff, Pace
from fedknow_ray.federation.policies import NobodyComes
from fedknow_ray.federation.selection import make_selection
from fedknow_ray.federation.steps import RoundClosed
from fedknow_ray.simulation.availability import AlwaysOn, Availability
from fedknow_ray.simulation.availability_gaps import Membership
from fedknow_ray.transport.payload import decode, encode


def pace(budget: int, concurrency: int, exponent: float = 0.5) -> Pace:
    return Pace(budget, concurrency, exponent)


def fedasync(
    budget: int,
    concurrency: int,
    *,
    mixing: float = 0.6,
    exponent: float = 0.5,
    availability: Availability | None = None,
) -> FedAsync:
    selection = make_selection("available", availability=availability or AlwaysOn(), seed=7)
    return FedAsync(selection, pace(budget, concurrency, exponent), mixing=mixing)


def fedbuff(
    budget: int,
    concurrency: int,
    *,
    buffer_size: int,
    server_lr: float = 1.0,
    exponent: float = 0.5,
    availability: Availability | None = None,
) -> FedBuff:
    selection = make_selection("available", availability=availability or AlwaysOn(), seed=7)
    return FedBuff(selection, pace(budget, concurrency, exponent), buffer_size=buffer_size, server_lr=server_lr)


def alone(*clients: int) -> Availability:
    """Only these clients are ever on."""
    return off(*((client, 0.0, NEVER_AGAIN) for client in range(3) if client not in clients))


def told(make: Any, *arguments: Any, availability: Availability, **changes: Any) -> Told:
    return Told(make(*arguments, availability=availability, **changes), conditions(availability=availability))


# FedAsync.


def test_each_update_is_merged_as_it_comes():
    """Clients 0 (13 s) and 1 (9 s) at work: ends at 9, 13, 18 and 26 s; staleness 0, 1, 1, 1."""
    course = told(fedasync, 4, 2, availability=alone(0, 1))
    assert course.merged == [[(1, 0)], [(0, 1)], [(1, 2)], [(0, 3)]]
    assert [(f.client_id, f.start_s, f.end_s, f.version, f.used_in) for f in course.flights()] == [
        (1, 0.0, 9.0, 0, 0),
        (0, 0.0, 13.0, 0, 1),
        (1, 9.0, 18.0, 1, 2),
        (0, 13.0, 26.0, 2, 3),
    ]
    weights = [0.6, 0.6 / math.sqrt(2), 0.6 / math.sqrt(2), 0.6 / math.sqrt(2)]
    assert [m.coefficients[0] for m in course.merges] == pytest.approx(weights, rel=1e-15)
    assert [m.keep for m in course.merges] == pytest.approx([1 - w for w in weights], rel=1e-15)
    assert not any(m.from_base for m in course.merges)


def test_without_an_exponent_staleness_does_not_matter():
    course = told(fedasync, 4, 2, availability=alone(0, 1), exponent=0.0, mixing=0.25)
    assert [(m.coefficients, m.keep) for m in course.merges] == [((0.25,), 0.75)] * 4


def test_a_whole_mixing_takes_a_fresh_update_as_it_is():
    course = told(fedasync, 1, 1, availability=alone(1), mixing=1.0)
    assert [(m.coefficients, m.keep) for m in course.merges] == [((1.0,), 0.0)]


def test_each_merge_is_a_row_of_rounds():
    course = told(fedasync, 3, 2, availability=alone(0, 1))
    assert course.rounds == [(0, 0.0, 9.0, (1,)), (1, 9.0, 13.0, (0,)), (2, 13.0, 18.0, (1,))]
    assert [(r.download_bytes, r.upload_bytes) for r in course.of(RoundClosed)] == [(PAYLOAD_BYTES, PAYLOAD_BYTES)] * 3


# FedBuff.


def test_as_many_updates_as_the_buffer_holds_are_merged_at_a_time():
    """Buffer 2: at 13 s and 26 s, of clients 0 and 1; the visit from 9 s on began before the first merge, and so did
    the one that ends at 27 s: what is left when the last visit has ended is merged by itself."""
    course = told(fedbuff, 5, 2, availability=alone(0, 1), buffer_size=2, server_lr=2.0)
    assert course.merged == [[(0, 1), (1, 0)], [(0, 3), (1, 2)], [(1, 4)]]
    assert [(r.start_s, r.end_s) for r in course.of(RoundClosed)] == [(0.0, 13.0), (13.0, 26.0), (26.0, 27.0)]
    assert {(m.keep, m.from_base) for m in course.merges} == {(1.0, True)}
    stale = 1 / math.sqrt(2)
    assert [m.coefficients for m in course.merges] == [
        (1.0, 1.0),
        pytest.approx((1.0, stale)),
        pytest.approx((2.0 * stale,)),
    ]


def test_a_client_waits_for_the_merge_or_its_next_visit_whichever_is_first():
    """Client 1 begins again at once each time; its last visit ends at 27 s, with the task."""
    course = told(fedbuff, 5, 2, availability=alone(0, 1), buffer_size=2)
    assert [f.wait_s for f in course.flights()] == [0.0] * 5
    # two at work of three: nobody is started for the last place, and who is done waits for the merge
    course = told(fedbuff, 2, 2, availability=alone(0, 1), buffer_size=2)
    assert [(f.client_id, f.wait_s) for f in course.flights()] == [(0, 0.0), (1, 4.0)]


def test_two_updates_of_one_client_go_into_one_merge_in_their_order():
    course = told(fedbuff, 3, 1, availability=alone(1), buffer_size=3)
    assert course.merged == [[(1, 0), (1, 1), (1, 2)]]
    assert course.rounds == [(0, 0.0, 27.0, (1, 1, 1))]


def test_a_lost_visit_is_spent():
    """Client 1 fails half way, 4.5 s, in its visits 0 and 1: two of the budget of three bring nothing."""
    conditions_of = conditions(availability=alone(1), failures=failing((1, 0, 0, 0.5), (1, 0, 1, 0.5)))
    course = Told(fedbuff(3, 1, buffer_size=3, availability=alone(1)), conditions_of)
    assert course.statuses() == [(1, "failed"), (1, "failed"), (1, "ok")]
    assert course.merged == [[(1, 2)]]
    assert course.rounds == [(0, 0.0, 18.0, (1, 1, 1))]


def test_a_task_in_which_nothing_arrives_ends_all_the_same():
    conditions_of = conditions(availability=alone(1), failures=failing((1, 0, 0, 0.5), (1, 0, 1, 0.5)))
    course = Told(fedbuff(2, 1, buffer_size=2, availability=alone(1)), conditions_of)
    assert course.merges == []
    assert course.rounds == [(0, 0.0, 9.0, (1, 1))]


# Both.


def test_nobody_refines_without_rounds():
    course = Told(fedasync(4, 2), method=Refining())
    assert course.flights("refine") == []


def test_without_federation_visits_are_made_and_nothing_is_merged():
    course = Told(fedbuff(4, 2, buffer_size=2), method=Lonely())
    assert (course.merges, len(course.flights())) == ([], 4)


@pytest.mark.parametrize("concurrency", [1, 2, 3])
@pytest.mark.parametrize("make", [fedasync, lambda *arguments: fedbuff(*arguments, buffer_size=4)])
def test_a_task_has_its_budget_of_visits_with_indices_of_their_own(make: Any, concurrency: int):
    course = Told(make(7, concurrency), tasks=2)
    for task_index in range(2):
        facts = [f.priced.order.facts for f in course.flights()]
        assert sorted(f.round_index for f in facts if f.task_index == task_index) == list(range(7))
    assert max(at_once(course)) == concurrency


def at_once(course: Told) -> list[int]:
    """How many train at the beginning of each visit."""
    spans = [(f.start_s, f.end_s) for f in course.flights()]
    return [sum(start_s <= moment_s < end_s for start_s, end_s in spans) for moment_s, _ in spans]


def test_a_free_place_is_filled_as_soon_as_somebody_is_on():
    """Client 1 is off from 1 s to 5 s and so lost; it is started again at 5 s, though client 0 is still at work."""
    gaps = off((1, 1.0, 5.0), (2, 0.0, NEVER_AGAIN))
    course = told(fedasync, 3, 2, availability=gaps)
    assert [(f.client_id, f.start_s, str(f.status)) for f in course.flights()] == [
        (0, 0.0, "ok"),
        (1, 0.0, "offline"),
        (1, 5.0, "ok"),
    ]


def test_a_place_waits_for_a_client_that_joins():
    late = Membership(off((0, 0.0, NEVER_AGAIN), (1, 0.0, NEVER_AGAIN)), {2: 30.0}, {})
    course = told(fedasync, 2, 2, availability=late)
    assert [(f.client_id, f.start_s) for f in course.flights()] == [(2, 30.0), (2, 39.0)]


def test_nobody_left_ends_the_run_with_one_message_once_the_last_visits_have_ended():
    gone = off((0, 20.0, NEVER_AGAIN), (1, 9.0, NEVER_AGAIN), (2, 0.0, NEVER_AGAIN))
    with pytest.raises(NobodyComes, match="from 20 s on"):
        told(fedasync, 9, 2, availability=gone)


def test_wakings_do_not_multiply():
    """Two clients that come and go 500 times; each change wakes the policy a bounded number of times."""
    gaps = [(client, 2.0 * turn, 2.0 * turn + 1.0) for turn in range(500) for client in (1, 2)]
    policy = fedasync(3000, 3, availability=(availability := off((0, 0.0, NEVER_AGAIN), *gaps)))
    woken: Counter[float] = Counter()
    plain_woken = policy.woken

    def counted(view: Any) -> Any:
        woken[view.now_s] += 1
        return plain_woken(view)

    policy.woken = counted  # type: ignore[method-assign]
    Told(policy, conditions(availability=availability))
    assert max(woken.values()) <= 3


# The formulas, and how they are summed.


def slow_twin(merge: Any, updates: Sequence[Any], bases: Sequence[Any], present: Any) -> Any:
    """The two formulas of `decisions.Merge`, in float64 and without a tree."""
    if merge["from_base"]:
        change = sum(c * (u - b) for c, u, b in zip(merge["coefficients"], updates, bases, strict=True))
        return present + change
    total = sum(c * u for c, u in zip(merge["coefficients"], updates, strict=True)) + merge["keep"] * present
    return total / (sum(merge["coefficients"]) + merge["keep"])


@settings(deadline=None)
@given(
    st.lists(st.floats(0.01, 2.0), min_size=1, max_size=19),
    st.sampled_from([(0.0, False), (0.4, False), (1.0, True)]),
    st.integers(0, 99),
)
def test_the_leaves_of_a_merge_sum_up_to_its_formula(coefficients: list[float], kind: tuple[float, bool], seed: int):
    keep, from_base = kind
    rng = np.random.default_rng(seed)
    *both, (present,) = (rng.normal(size=(n, 6)).astype(np.float32) for n in (len(coefficients), len(coefficients), 1))
    updates, bases = both
    leaves = leaves_of(coefficients, keep, from_base=from_base)
    mean = TreeMean(len(leaves))
    for index, leaf in enumerate(leaves):
        models = {"update": updates, "base": bases, "present": [present]}[leaf.of]
        payloads = [encode({"w": models[place]}) for place in leaf.places]
        mean.add(index, sum_block(payloads, leaf.coefficients))
    got = decode(mean.payload(total_of(coefficients, keep, from_base=from_base)))["w"]
    merge = {"coefficients": coefficients, "keep": keep, "from_base": from_base}
    expected = slow_twin(merge, *(np.asarray(m, np.float64) for m in (updates, bases, present)))
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
