"""Transfer, counted by hand on three clients."""

from __future__ import annotations

import pytest
from test_continual import TWO_CLIENTS, table_of

from fedknow_ray.metrics.transfer import final_accuracies, forward_transfer, negative_transfer

ALONE = table_of((0, "own", 0, 0, 50, 100), (1, "own", 0, 0, 80, 100), (2, "own", 0, 0, 60, 100))


def test_final_accuracy_is_a_clients_mean_over_its_learnt_tasks():
    """(0.5 + 1.0) / 2 and (0.4 + 0.5) / 2."""
    assert final_accuracies(TWO_CLIENTS) == pytest.approx({0: 0.75, 1: 0.45})


def test_client_without_a_final_score_is_left_out():
    table = table_of((0, "own", 0, 0, 1, 2), (0, "own", 1, 1, 1, 4), (1, "own", 0, 0, 1, 2))
    assert final_accuracies(table) == {0: 0.25}


def test_share_counts_the_clients_that_lost_and_the_loss_is_over_all():
    """Client 1 loses 0.3, client 0 gains and client 2 stays."""
    together = table_of((0, "own", 0, 0, 70, 100), (1, "own", 0, 0, 50, 100), (2, "own", 0, 0, 60, 100))
    transfer = negative_transfer(together, ALONE)
    assert (transfer.clients, transfer.share, transfer.mean_loss) == (3, pytest.approx(1 / 3), pytest.approx(0.1))


def test_only_clients_that_both_runs_scored_count():
    assert negative_transfer(table_of((2, "own", 0, 0, 1, 100), (9, "own", 0, 0, 1, 100)), ALONE).clients == 1


def test_global_model_does_not_count():
    assert negative_transfer(table_of((0, "global", 0, 0, 1, 100)), ALONE) is None


def test_nobody_is_hurt_by_what_is_the_same():
    transfer = negative_transfer(ALONE, ALONE)
    assert (transfer.share, transfer.mean_loss) == (0, 0)


def test_forward_transfer_is_what_later_tasks_gain_right_after_learning():
    """Client 0 from 0.5 to 0.75, client 1 from 0.6 to 0.5; the first task and what is forgotten do not count."""
    rows = [(0, "own", 0, 0, 9, 10), (0, "own", 1, 0, 1, 10), (1, "own", 0, 0, 9, 10), (1, "own", 1, 0, 9, 10)]
    together = table_of(*rows, (0, "own", 1, 1, 3, 4), (1, "own", 1, 1, 5, 10))
    alone = table_of(*rows, (0, "own", 1, 1, 2, 4), (1, "own", 1, 1, 6, 10))
    assert forward_transfer(together, alone) == pytest.approx((0.25 - 0.1) / 2)


def test_forward_transfer_needs_a_later_task_that_both_have_scored():
    one = table_of((0, "own", 0, 0, 1, 2), (0, "own", 1, 1, 1, 2))
    assert forward_transfer(one, ALONE) is None
    assert forward_transfer(ALONE, ALONE) is None
    assert forward_transfer(one, one) == 0
