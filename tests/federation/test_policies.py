"""Rounds, synchronous and with a deadline, computed by hand: see tests/federation/telling.py for the numbers."""

from __future__ import annotations

import math

import pytest
from fakes import PAYLOAD_BYTES, Lonely, Refining, Trial, conditions, synchronous
from telling import NEVER_AGAIN, Told, in_rounds, off, spent

from fedknow_ray.federation.policies import NobodyComes
from fedknow_ray.federation.steps import RoundClosed
from fedknow_ray.results.schema import VisitRow
from fedknow_ray.simulation.availability import duty_cycle
from fedknow_ray.simulation.availability_gaps import Membership

ALL = ((0, 1, 2),)
MB4 = PAYLOAD_BYTES


# Synchronous.


def test_a_synchronous_round_ends_with_its_last_visit():
    told = Told(synchronous([(0, 1), (1, 2)]))
    assert told.rounds == [(0, 0.0, 13.0, (0, 1)), (1, 13.0, 22.0, (1, 2))]
    assert [(f.client_id, f.wait_s) for f in told.flights()] == [(0, 0.0), (1, 4.0), (1, 0.0), (2, 0.0)]


def test_a_mean_is_weighted_by_training_images_and_keeps_nothing():
    (first, second) = Told(synchronous([(0, 1), (1, 2)])).merges
    assert [(m.coefficients, m.keep, m.from_base) for m in (first, second)] == [
        ((10.0, 20.0), 0.0, False),
        ((20.0, 30.0), 0.0, False),
    ]


def test_named_cohorts_are_used_again_from_the_front_over_all_tasks():
    """Three cohorts, two rounds a task: task 1 begins with the third."""
    told = Told(in_rounds(2, cohorts=[(0,), (1,), (2,)]), tasks=2)
    assert [clients for _, _, _, clients in told.rounds] == [(0,), (1,), (2,), (0,)]


def test_a_cohort_is_started_in_the_order_of_clients_however_it_is_written():
    assert Told(synchronous([(2, 0)], rounds=1)).rounds == [(0, 0.0, 13.0, (0, 2))]


def test_a_drawn_cohort_has_as_many_clients_as_are_started():
    told = Told(in_rounds(4, 2, 2))
    assert {len(clients) for _, _, _, clients in told.rounds} == {2}


def test_clients_whose_update_came_refine_from_the_fresh_aggregate():
    """After 13 s: 2.5 s down, and 3 s on client 0 or 1 s on client 1, which waits 2 s."""
    told = Told(in_rounds(cohorts=[(0, 1)]), method=Refining())
    assert told.rounds == [(0, 0.0, 18.5, (0, 1))]
    refined = told.flights("refine")
    assert [(f.client_id, f.start_s, f.compute_s, f.wait_s, f.version) for f in refined] == [
        (0, 13.0, 3.0, 0.0, 1),
        (1, 13.0, 1.0, 2.0, 1),
    ]
    assert [(r.upload_bytes, r.download_bytes) for r in told.of(RoundClosed)] == [(2 * MB4, 4 * MB4)]


def test_a_client_whose_update_was_lost_does_not_refine():
    told = Told(in_rounds(cohorts=[(0, 1)]), conditions(availability=off((0, 5.0, 12.0))), method=Refining())
    assert [f.client_id for f in told.flights("refine")] == [1]


def test_without_federation_a_round_takes_the_computing_alone_and_merges_nothing():
    told = Told(synchronous([(0, 1)], rounds=1), method=Lonely())
    assert told.rounds == [(0, 0.0, 6.0, (0, 1))]
    assert told.merges == []


# A deadline, and over-selection.


def test_a_round_ends_with_the_last_update_that_it_needs():
    """Two of three: clients 1 and 2 after 9 s; client 0 is stopped in its upload's beginning, 0.5 s after 8.5 s."""
    told = Told(in_rounds(needed=2))
    assert told.rounds == [(0, 0.0, 9.0, (0, 1, 2))]
    assert told.statuses() == [(0, "late"), (1, "ok"), (2, "ok")]
    assert spent(told.flights()[0]) == (2.5, 6.0, 0.5, MB4, 0)
    assert told.merged == [[(1, 0), (2, 0)]]
    assert told.events == [(9.0, "visit_late", 0)]


def test_of_equal_ends_the_first_client_is_taken():
    told = Told(in_rounds(needed=1, started=2, cohorts=[(1, 2)]))
    assert told.statuses() == [(1, "ok"), (2, "late")]
    assert spent(told.flights()[1]) == (2.5, 2.0, 4.5, MB4, MB4)


@pytest.mark.parametrize(
    ("deadline_s", "seconds"),
    [
        (1.5, (1.5, 0.0, 0.0, 2 * 10**6, 0)),
        (0.25, (0.25, 0.0, 0.0, 0, 0)),
        (4.0, (2.5, 1.5, 0.0, MB4, 0)),
        (8.5, (2.5, 6.0, 0.0, MB4, 0)),
        (11.0, (2.5, 6.0, 2.5, MB4, 2 * 10**6)),
    ],
)
def test_a_late_visit_has_the_seconds_and_bytes_that_it_had_spent(deadline_s: float, seconds: tuple[float, ...]):
    """2 MB/s down and 1 MB/s up, after 0.5 s of latency each."""
    told = Told(in_rounds(cohorts=[(0,)], deadline_s=deadline_s))
    assert told.rounds == [(0, 0.0, deadline_s, (0,))]
    assert told.statuses() == [(0, "late")]
    assert spent(told.flights()[0]) == seconds
    assert told.merges == []


def test_an_update_at_the_very_deadline_counts():
    told = Told(in_rounds(cohorts=[(0, 1)], deadline_s=9.0))
    assert told.statuses() == [(0, "late"), (1, "ok")]
    assert told.merged == [[(1, 0)]]


def test_a_visit_that_is_late_is_never_made():
    """The rows of two rounds of 10 s: client 0 has come 1 s into its upload each time."""
    trial = Trial(policy=in_rounds(2, cohorts=ALL, deadline_s=10.0))
    trial.run()
    trained = [row for row in trial.rows_of(VisitRow) if row.kind == "train"]
    assert [(row.client_id, row.status, row.start_s) for row in trained] == [
        *((0, "late", 0.0), (1, "ok", 0.0), (2, "ok", 0.0)),
        *((0, "late", 10.0), (1, "ok", 10.0), (2, "ok", 10.0)),
    ]
    late = trained[0]
    assert (late.upload_s, late.upload_bytes, late.moved_bytes, late.loss) == (1.5, 10**6, 6 * 10**6, None)
    # 10 W for 6 s, 1 W for 4 s
    assert late.energy_j == 64.0
    assert {order.client_id for order in trial.executor.reported if order.kind == "train"} == {1, 2}
    assert trial.executor.merged[0].coefficients == (20.0, 30.0)


def test_the_deadline_of_a_round_that_is_over_ends_no_other():
    """Rounds of 9 s: the alarm of round 0 rings at 11 s, and round 1 still has its own."""
    told = Told(in_rounds(2, cohorts=[(1,), (0,)], deadline_s=11.0))
    assert told.rounds == [(0, 0.0, 9.0, (1,)), (1, 9.0, 20.0, (0,))]
    assert told.statuses() == [(1, "ok"), (0, "late")]


def test_the_alarms_of_a_task_do_not_reach_into_the_next():
    """Task 0: 9 s, its end 5.5 s for client 0, which was not trained. Task 1 begins at 14.5 s and has until 114.5 s."""
    told = Told(in_rounds(cohorts=[(1,), (0,)], deadline_s=100.0), tasks=2)
    assert told.rounds[1] == (0, 14.5, 27.5, (0,))
    assert told.statuses() == [(1, "ok"), (0, "ok")]


def test_a_round_in_which_nobody_is_in_time_merges_nothing_and_goes_on():
    told = Told(in_rounds(2, cohorts=[(0,), (1,)], deadline_s=9.5))
    assert told.rounds == [(0, 0.0, 9.5, (0,)), (1, 9.5, 18.5, (1,))]
    assert told.merged == [[(1, 1)]]


# Late updates that are kept.


def test_a_late_update_that_is_kept_counts_in_the_round_in_which_it_arrives():
    """Round 0 ends at 9 s without client 0, which is busy until 13 s; round 1 has clients 1 and 2 until 18 s."""
    told = Told(in_rounds(2, needed=2, cohorts=ALL, late="keep"))
    assert told.rounds == [(0, 0.0, 9.0, (0, 1, 2)), (1, 9.0, 18.0, (1, 2))]
    assert told.merged == [[(1, 0), (2, 0)], [(0, 0), (1, 1), (2, 1)]]
    assert told.merges[1].coefficients == (10.0, 20.0, 30.0)
    assert [(f.client_id, str(f.status), f.version, f.used_in) for f in told.flights()] == [
        *((1, "ok", 0, 0), (2, "ok", 0, 0)),
        (0, "ok", 0, 1),
        *((1, "ok", 1, 1), (2, "ok", 1, 1)),
    ]


def test_the_bytes_of_a_late_visit_count_in_the_round_in_which_it_ends():
    told = Told(in_rounds(2, needed=2, cohorts=ALL, late="keep"))
    assert [(r.download_bytes, r.upload_bytes) for r in told.of(RoundClosed)] == [
        (2 * MB4, 2 * MB4),
        (3 * MB4, 3 * MB4),
    ]


def test_a_client_that_is_late_makes_no_other_visit_meanwhile():
    """Its round waits for nobody, and the next one for clients 0 and 2 alone, which are free."""
    told = Told(in_rounds(2, needed=1, cohorts=[(0, 1), (0, 2)], late="keep"))
    assert told.rounds == [(0, 0.0, 9.0, (0, 1)), (1, 9.0, 18.0, (2,))]


def test_a_round_whose_clients_are_all_busy_waits_for_the_first_of_them():
    """Client 0 is late by 9.5 s in round 0; round 1 begins when it has arrived, and the same again."""
    told = Told(in_rounds(3, cohorts=[(0,)], deadline_s=9.5, late="keep"))
    assert [(start_s, end_s, clients) for _, start_s, end_s, clients in told.rounds] == [
        (0.0, 9.5, (0,)),
        (9.5, 22.5, (0,)),
        (22.5, 35.5, (0,)),
    ]
    assert [f.start_s for f in told.flights()] == [0.0, 13.0, 26.0]
    assert told.merged == [[(0, 0)], [(0, 1)]]


def test_a_round_without_anybody_free_does_not_say_that_nobody_comes():
    """All three are late in round 0; who comes back first makes round 1 alone."""
    told = Told(in_rounds(2, late="keep", deadline_s=5.0, selection="available"))
    assert told.rounds[:1] == [(0, 0.0, 5.0, (0, 1, 2))]
    # client 1 lands first, at 9 s, and is late again
    assert told.rounds[1] == (1, 5.0, 14.0, (1,))


def test_what_is_late_at_the_end_of_a_task_is_stopped():
    told = Told(in_rounds(needed=2, late="keep"))
    assert told.rounds == [(0, 0.0, 9.0, (0, 1, 2))]
    assert told.statuses() == [(1, "ok"), (2, "ok"), (0, "late")]
    assert [f.facts.trained_this_task for f in (f.priced.order for f in told.flights("finish_task"))] == [
        *(False, True, True)
    ]


# Nobody there.


def test_a_client_that_is_off_does_not_come_and_nobody_waits_for_it():
    told = Told(in_rounds(cohorts=[(0, 1)]), conditions(availability=off((0, 0.0, 100.0))))
    assert told.rounds == [(0, 0.0, 9.0, (0, 1))]
    assert told.statuses() == [(0, "offline"), (1, "ok")]
    assert spent(told.flights()[0]) == (0.0, 0.0, 0.0, 0, 0)
    assert told.events == [(0.0, "visit_offline", 0)]


def test_a_round_waits_while_its_whole_cohort_is_off():
    told = Told(in_rounds(cohorts=[(0, 1)]), conditions(availability=off((0, 0.0, 50.0), (1, 0.0, 40.0))))
    assert told.rounds == [(0, 0.0, 49.0, (0, 1))]
    assert told.statuses() == [(0, "offline"), (1, "ok")]
    assert told.flights()[1].start_s == 40.0


@pytest.mark.parametrize("selection", ["available", "longest_waiting", "uniform"])
def test_a_round_waits_while_everybody_is_off(selection: str):
    cycle = duty_cycle(period_s=100.0, on_s=40.0, offsets_s=[60.0, 60.0, 55.0])
    policy = in_rounds(2, needed=1, started=1, selection=selection, availability=cycle)
    told = Told(policy, conditions(availability=cycle))
    assert told.statuses() == [(client, "ok") for client, _ in told.statuses()]
    first_s = {"uniform": (60.0 + 13.0, 60.0 + 9.0, 55.0 + 9.0)}.get(selection, (55.0 + 9.0,))
    assert told.rounds[0][2] in first_s


@pytest.mark.parametrize("selection", ["available", "longest_waiting", "uniform"])
def test_a_run_in_which_nobody_is_ever_on_again_ends_with_one_message(selection: str):
    gone = off(*((client, 10.0, NEVER_AGAIN) for client in range(3)))
    with pytest.raises(NobodyComes, match=r"task_index 0: from 10 s on no client .* is ever on again"):
        Told(in_rounds(4, selection=selection, availability=gone), conditions(availability=gone))


@pytest.mark.parametrize("cohorts", [[(0,)], None])
def test_a_cohort_that_never_comes_does_not_end_the_run_while_others_are_there(cohorts: list[tuple[int]] | None):
    """Drawn: whoever of the two that are gone is picked does not come."""
    gone = off((0, 0.0, NEVER_AGAIN), (2, 0.0, NEVER_AGAIN))
    policy = in_rounds(6, needed=1, started=1, cohorts=cohorts, availability=gone)
    told = Told(policy, conditions(availability=gone))
    assert len(told.rounds) == 6
    assert {status for client, status in told.statuses() if client != 1} == {"offline"}
    assert {status for client, status in told.statuses() if client == 1} <= {"ok"}


def test_a_cohort_that_has_left_gives_an_empty_round():
    """The others are on, so that waiting for the cohort would be for ever."""
    left = Membership(off(), {}, {0: 5.0})
    told = Told(in_rounds(3, cohorts=[(0,), (0,), (1,)]), conditions(availability=left))
    assert told.rounds == [(0, 0.0, 5.0, (0,)), (1, 5.0, 5.0, ()), (2, 5.0, 14.0, (1,))]


def test_a_cohort_that_has_not_joined_is_waited_for():
    late = Membership(off(), {0: 30.0}, {})
    told = Told(in_rounds(cohorts=[(0,)]), conditions(availability=late))
    assert told.rounds == [(0, 0.0, 43.0, (0,))]


def test_clients_that_join_are_drawn_from_then_on():
    late = Membership(off(), {0: 30.0, 2: 30.0}, {})
    told = Told(in_rounds(5, needed=3, started=3, availability=late), conditions(availability=late))
    assert [clients for _, _, _, clients in told.rounds] == [(1,), (1,), (1,), (1,), (0, 1, 2)]


def test_an_empty_round_still_merges_what_came_late():
    """Client 0 is late in round 0 and leaves at 13 s, just as it has arrived; of round 1 nobody is left."""
    left = Membership(off(), {}, {0: 13.0})
    policy = in_rounds(2, cohorts=[(0,)], deadline_s=9.5, late="keep", availability=left)
    told = Told(policy, conditions(availability=left))
    assert told.rounds == [(0, 0.0, 9.5, (0,)), (1, 9.5, 13.0, ())]
    assert told.merged == [[(0, 0)]]
    assert not math.isinf(told.engine.now_s)
