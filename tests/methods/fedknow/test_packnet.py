"""FedKNOW's pack net: who owns which weight, what rests, and what a teacher is made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from workbench import ADAM, CHANNELS, CLASSES, DRY, NORMED, SGD, SIDE, TINY, Bench, make_learner, task_data, training

from fedknow_ray.federation.visit import VisitKind
from fedknow_ray.methods.fedknow.packnet import (
    FREE,
    SHARED,
    PackNet,
    Schedule,
    claim,
    give_up,
    pack_bytes,
    train_pack,
    unowned,
)
from fedknow_ray.methods.learner import Learner
from fedknow_ray.models.catalogue import ModelSpec
from fedknow_ray.models.layout import TensorSlice

#: Two tensors of 6 and 4 weights, with a bias of 2 between them.
LAYOUT = (TensorSlice("a", 0, (2, 3)), TensorSlice("b", 6, (2,)), TensorSlice("c", 8, (2, 2)))
W_P = torch.tensor([0.1, -0.9, 0.3, 0.0, 0.5, -0.2, 9.0, 9.0, 0.8, -0.4, 0.6, 0.7])
HEAD_RF = torch.zeros(CLASSES, 6)


def packed(tasks: int, learner: Learner | None = None, **schedule: Any) -> PackNet:
    """A pack net that has learnt so many tasks, with one visit in each."""
    learner, pack = learner or make_learner(config=training(local_epochs=3)), None
    for task in range(tasks):
        pack = train_task(pack, learner, task, **schedule)
    assert pack is not None
    return pack


def train_task(pack: PackNet | None, learner: Learner, task: int, seed: int | None = None, **schedule: Any) -> PackNet:
    learner.begin(np.random.default_rng(task if seed is None else seed))
    settings = {"epochs": 3, "retrain_epochs": 1, "fraction": 0.1, **schedule}
    return train_pack(pack, learner, task_data(task), HEAD_RF, task, Schedule(**settings))


def owned(pack: PackNet, task: int) -> int:
    return int((pack.owner_P == task).sum())


def test_before_task_0_weights_are_free_and_biases_shared():
    assert unowned(LAYOUT, 12).tolist() == [FREE] * 6 + [SHARED] * 2 + [FREE] * 4


def test_a_task_claims_the_largest_magnitudes_of_the_whole_network():
    """Half of ten: 0.9, 0.8, 0.7, 0.6 and 0.5; the biases, larger than all, are not asked."""
    owner_P = claim(W_P, unowned(LAYOUT, 12), 0, 0.5)
    assert (owner_P == 0).nonzero().flatten().tolist() == [1, 4, 8, 10, 11]
    assert (owner_P == SHARED).nonzero().flatten().tolist() == [6, 7]


def test_a_later_task_claims_the_largest_of_what_is_left():
    """Half of five, rounded up: 0.4, 0.3 and 0.2, although task 0 has larger ones."""
    owner_P = claim(W_P, claim(W_P, unowned(LAYOUT, 12), 0, 0.5), 1, 0.5)
    assert (owner_P == 1).nonzero().flatten().tolist() == [2, 5, 9]


def test_shares_are_geometric():
    """100 weights at 0.1: ceil of 10, 9, 8.1, 7.3 of 100, 90, 81, 72."""
    owner_P = unowned((TensorSlice("a", 0, (10, 10)),), 100)
    for task in range(4):
        owner_P = claim(torch.arange(100.0), owner_P, task, 0.1)
    assert [int((owner_P == task).sum()) for task in range(4)] == [10, 9, 9, 8]


def test_equal_magnitudes_go_to_the_lower_index():
    owner_P = claim(torch.ones(12), unowned(LAYOUT, 12), 0, 0.3)
    assert (owner_P == 0).nonzero().flatten().tolist() == [0, 1, 2]


def test_a_fraction_is_the_decimal_that_it_is_written_as():
    """0.07 of 100 is 7, although the float is a little more."""
    owner_P = claim(torch.arange(100.0), torch.full((100,), FREE, dtype=torch.int16), 0, 0.07)
    assert int((owner_P == 0).sum()) == 7


def test_a_claim_that_is_given_up_is_free_again_and_others_stay():
    first = claim(W_P, unowned(LAYOUT, 12), 0, 0.5)
    second = claim(W_P, first, 1, 0.5)
    torch.testing.assert_close(give_up(second, 1), first)
    assert (give_up(first, 0) == unowned(LAYOUT, 12)).all()


def test_a_teacher_has_the_weights_of_its_task_and_those_before():
    owner_P = torch.tensor([0, 1, 2, SHARED, FREE], dtype=torch.int16)
    pack = PackNet(torch.arange(1.0, 6.0), torch.empty(0), owner_P)
    assert pack.teacher_P(0).tolist() == [1, 0, 0, 4, 0]
    assert pack.teacher_P(1).tolist() == [1, 2, 0, 4, 0]
    assert pack.teacher_P(2).tolist() == [1, 2, 3, 4, 0]


@pytest.mark.parametrize(("epochs", "retrain", "expected"), [(8, 4, 4), (3, 4, 2), (1, 4, 0), (5, 0, 0)])
def test_an_epoch_is_left_before_the_claim(epochs: int, retrain: int, expected: int):
    assert Schedule(epochs, retrain, 0.1).retraining == expected


def test_shares_of_a_trained_pack_net():
    """267 prunable weights: 27, then ceil(24.0), ceil(21.6) of 240 and 216; what nobody owns is 0."""
    pack = packed(3)
    assert [owned(pack, task) for task in (SHARED, 0, 1, 2)] == [8, 27, 24, 22]
    assert not pack.weights_P[pack.owner_P == FREE].any()


@pytest.mark.parametrize("optimizer", [ADAM, SGD], ids=["adam", "sgd"])
def test_weights_of_past_tasks_rest_bit_for_bit(optimizer: Any):
    """Weight decay and momentum are on; biases rest from task 1 on as well."""
    learner = make_learner(config=training(local_epochs=3, optimizer=optimizer))
    first = packed(1, learner)
    resting_P = first.owner_P <= 0
    pack = first
    for task in (1, 1, 2):
        pack = train_task(pack, learner, task)
        np.testing.assert_array_equal(pack.weights_P[resting_P], first.weights_P[resting_P])
        np.testing.assert_array_equal(pack.heads_RF[0], first.heads_RF[0])
        np.testing.assert_array_equal(pack.teacher_P(0), first.teacher_P(0))


def test_biases_move_in_task_0():
    learner = make_learner(config=training(local_epochs=3))
    first = packed(1, learner)
    again = train_task(first, learner, 0, seed=9)
    assert not torch.equal(first.weights_P[first.owner_P == SHARED], again.weights_P[first.owner_P == SHARED])


def test_retraining_moves_what_was_claimed():
    """Same stream and claim, with and without a further epoch of retraining."""
    without, with_one = (packed(1, epochs=2 + r, retrain_epochs=r) for r in (0, 1))
    np.testing.assert_array_equal(without.owner_P, with_one.owner_P)
    claimed_P = without.owner_P == 0
    assert (without.weights_P[claimed_P] != with_one.weights_P[claimed_P]).any()


def test_a_second_visit_claims_anew():
    """Shares count from what earlier tasks left, so they do not shrink with visits."""
    learner = make_learner(config=training(local_epochs=3))
    pack = packed(2, learner)
    again = train_task(pack, learner, 1, seed=9)
    assert owned(again, 1) == owned(pack, 1) == 24
    assert len(again.heads_RF) == 2


def test_a_second_visit_goes_on_from_the_head_of_the_first():
    learner = make_learner(config=training(local_epochs=3))
    pack = packed(1, learner)
    other = PackNet(pack.weights_P, pack.statistics_B, pack.owner_P, (pack.heads_RF[0] + 1,))
    first, second = (train_task(one, learner, 0).heads_RF[0] for one in (pack, other))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("spec", [TINY, NORMED], ids=["plain", "batch norm"])
def test_the_learners_network_holds_the_federated_model_before_and_after(spec: ModelSpec):
    learner = make_learner(spec, training(local_epochs=3))
    state_S, head_RF = learner.network.state(), learner.network.head_rows()
    packed(2, learner)
    np.testing.assert_array_equal(learner.network.state(), state_S)
    np.testing.assert_array_equal(learner.network.head_rows(), head_RF)


def test_a_pack_net_is_a_value():
    """Training on from it leaves it as it was."""
    learner = make_learner(NORMED, training(local_epochs=3))
    pack = packed(1, learner)
    before = [t.clone() for t in (pack.weights_P, pack.statistics_B, pack.owner_P, pack.heads_RF[0])]
    train_task(pack, learner, 1)
    for tensor, copy in zip((pack.weights_P, pack.statistics_B, pack.owner_P, pack.heads_RF[0]), before, strict=True):
        np.testing.assert_array_equal(tensor, copy)


def test_the_streams_of_the_visit_do_not_feel_it():
    """Order of batches and torch's generator stand where they stood."""
    learner = make_learner(config=training(local_epochs=3))
    for untouched in (True, False):
        learner.begin(np.random.default_rng(4))
        torch.manual_seed(4)
        if untouched:
            expected: tuple[float, Tensor] = learner.order.random(), torch.get_rng_state()
        else:
            train_pack(None, learner, task_data(), HEAD_RF, 0, Schedule(3, 1, 0.1))
            assert learner.order.random() == expected[0]
            assert torch.equal(torch.get_rng_state(), expected[1])


def test_it_starts_from_weights_of_its_own():
    """Whatever the learner's network holds, the same stream gives the same pack net, statistics included."""
    packs = [packed(1, make_learner(NORMED, training(local_epochs=3), seed=seed)) for seed in (1, 2)]
    np.testing.assert_array_equal(packs[0].weights_P, packs[1].weights_P)
    np.testing.assert_array_equal(packs[0].statistics_B, packs[1].statistics_B)


class Stubborn(nn.Module):
    """Has a weight, and no way to draw it anew."""

    def __init__(self, height: int, width: int, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5, height * width * channels))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW.flatten(1) @ self.scale.T


def test_a_network_that_cannot_be_drawn_anew_is_refused():
    spec = ModelSpec("stubborn", "small_cnn", 4, 64, Stubborn)
    with pytest.raises(ValueError, match=r"module '' has no reset_parameters\(\)"):
        packed(1, make_learner(spec, training(local_epochs=3)))


def test_bytes_of_a_pack_net_are_those_of_its_tensors():
    bench = Bench("fedknow", {"variant": "authors_code"}, spec=NORMED)
    for task_index in range(2):
        bench.visit(VisitKind.TRAIN, task_index)
    pack = bench.state().memory.pack
    tensors = (pack.weights_P, pack.statistics_B, pack.owner_P, *pack.heads_RF)
    assert pack_bytes(bench.method.costs, CLASSES, 2) == sum(t.numel() * t.element_size() for t in tensors)
    assert pack_bytes(bench.method.costs, CLASSES, 0) == 0


def test_the_layout_of_the_bench_is_what_these_numbers_were_counted_on():
    """3 x 3 x 3 weights of a convolution and 5 x 48 of a linear layer; 3 + 5 biases."""
    network = make_learner(DRY).network
    assert (SIDE, CHANNELS, network.P) == (8, 1, 27 + 240 + 8)
