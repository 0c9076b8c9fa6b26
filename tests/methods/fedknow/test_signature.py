"""Choice of signature tasks: hand-computed distances, one-line twins over whole vectors, and the laws of the choice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from choosing import choose
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from fedknow_ray.errors import UnknownNameError
from fedknow_ray.methods.fedknow import signature
from fedknow_ray.methods.fedknow.signature import RULES, distance

DISTANCES = ["wasserstein", "wasserstein_sorted", "cosine"]
G = torch.tensor([1.0, 1.0, 0.0, 0.0])
PAST = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, -2.0, 0.0], [1.0, 0.0, 1.0, 0.0]])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def gradients(t: int, P: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(t + 1, P, generator=torch.Generator().manual_seed(seed))


def test_wasserstein_compares_cumulated_normalised_magnitudes():
    """p_g = (1/2, 1/2, 0, 0) cumulates to (1/2, 1, 1, 1); the past to the same, (0, 0, 1, 1) and (1/2, 1/2, 1, 1)."""
    assert [signature.wasserstein(G, past_P) for past_P in PAST] == [0.0, 0.375, 0.125]


def test_wasserstein_sorted_compares_coordinates_by_rank():
    """Sorted (0 0 1 1) against (0 0 1 1), (-2 0 0 0) and (0 0 1 1)."""
    assert [signature.wasserstein_sorted(G, past_P) for past_P in PAST] == [0.0, 1.0, 0.0]


def test_cosine_is_zero_for_equal_and_one_for_orthogonal_directions():
    np.testing.assert_allclose([signature.cosine(G, past_P) for past_P in PAST], [0.0, 1.0, 0.5], atol=1e-15)


def test_cosine_is_two_for_opposite_directions():
    np.testing.assert_allclose(signature.cosine(G, -3 * G), 2.0)


@pytest.mark.parametrize("P", [1, 7, 32_768, 70_000])
def test_blocks_give_the_distances_of_whole_vectors(P: int):
    g_P, past_P = gradients(1, P)
    x, y = g_P.double().numpy(), past_P.double().numpy()
    share_gap = np.cumsum(np.abs(x) / np.abs(x).sum()) - np.cumsum(np.abs(y) / np.abs(y).sum())
    assert distance("wasserstein", g_P, past_P) == pytest.approx(np.abs(share_gap).mean(), abs=1e-15)
    assert distance("wasserstein_sorted", g_P, past_P) == pytest.approx(wasserstein_distance(x, y))
    assert distance("cosine", g_P, past_P) == pytest.approx(
        1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-14
    )


@pytest.mark.parametrize("name", DISTANCES)
def test_a_gradient_has_no_distance_to_itself(name: str):
    g_P = gradients(0, 70_000)[0]
    assert distance(name, g_P, g_P.clone()) == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize(
    ("name", "t", "k", "expected"),
    [("cosine", 3, 2, True), ("cosine", 2, 2, False), ("cosine", 3, 0, False), ("random", 3, 2, False)],
)
def test_gradients_are_measured_only_by_a_distance_among_more_tasks_than_wanted(name, t, k, expected):
    assert signature.measures_gradients(name, t, k) is expected


@pytest.mark.parametrize(("name", "expected"), [("wasserstein", (1, 2)), ("cosine", (1, 2)), ("oldest", (0, 1))])
def test_the_least_similar_tasks_are_chosen_in_ascending_order(name: str, expected: tuple[int, ...]):
    assert choose(name, G, PAST, 2, rng()) == expected


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("k", [3, 10])
def test_all_tasks_are_chosen_when_there_are_no_more_than_k(name: str, k: int):
    assert choose(name, G, PAST, k, rng()) == (0, 1, 2)


@pytest.mark.parametrize("name", RULES)
def test_no_task_is_chosen_for_k_of_zero_or_without_a_past(name: str):
    assert choose(name, G, PAST, 0, rng()) == ()
    assert choose(name, G, PAST[:0], 3, rng()) == ()


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize("P", [5, 1003, 70_000])
def test_equal_distances_go_to_the_lower_index(name: str, P: int):
    g_P, past_P = gradients(1, P)
    assert choose(name, g_P, past_P.repeat(7, 1), 3, rng()) == (0, 1, 2)


@pytest.mark.parametrize("name", DISTANCES)
def test_a_zero_past_gradient_is_chosen_last(name: str):
    G_tP = torch.stack([torch.zeros(4), G, G])
    assert choose(name, G, G_tP, 2, rng()) == (1, 2)


@pytest.mark.parametrize("name", DISTANCES)
def test_a_zero_current_gradient_still_gives_a_choice(name: str):
    assert len(choose(name, torch.zeros(4), PAST, 2, rng())) == 2


def test_random_tasks_are_distinct_ascending_and_repeatable():
    g_P, G_tP = gradients(9, 4)[0], gradients(9, 4)[1:]
    chosen = choose("random", g_P, G_tP, 4, rng(5))
    assert chosen == choose("random", g_P, G_tP, 4, rng(5))
    assert chosen == tuple(sorted(set(chosen)))
    assert len(chosen) == 4


def test_random_draws_differ_between_seeds():
    g_P, G_tP = gradients(9, 4)[0], gradients(9, 4)[1:]
    assert len({choose("random", g_P, G_tP, 4, rng(seed)) for seed in range(10)}) > 1


@pytest.mark.parametrize("name", ["wasserstein", "wasserstein_sorted", "cosine", "oldest"])
def test_only_random_draws_from_the_generator(name: str):
    generator = rng()
    choose(name, G, PAST, 1, generator)
    assert generator.bit_generator.state == rng().bit_generator.state


@given(seed=st.integers(0, 500), name=st.sampled_from(DISTANCES), k=st.integers(1, 5))
def test_permuting_the_past_permutes_the_choice(seed: int, name: str, k: int):
    g_P, G_tP = gradients(6, 30, seed)[0], gradients(6, 30, seed)[1:]
    order = rng(seed).permutation(6)
    permuted = choose(name, g_P, G_tP[torch.from_numpy(order)], k, rng())
    assert tuple(sorted(order[list(permuted)])) == choose(name, g_P, G_tP, k, rng())


@given(seed=st.integers(0, 500), name=st.sampled_from(["wasserstein", "cosine"]))
def test_the_scale_of_gradients_does_not_matter_to_normalised_distances(seed: int, name: str):
    """Powers of two, so that scaling is exact; from 2^-40 to 2^40."""
    g_P, G_tP = gradients(6, 30, seed)[0], gradients(6, 30, seed)[1:]
    scale = torch.from_numpy(2.0 ** rng(seed).integers(-40, 40, size=(6, 1))).float()
    assert choose(name, 8 * g_P, scale * G_tP, 3, rng()) == choose(name, g_P, G_tP, 3, rng())


def test_the_gradients_are_not_changed():
    g_P, G_tP = G.clone(), PAST.clone()
    for name in RULES:
        choose(name, g_P, G_tP, 1, rng())
    assert torch.equal(g_P, G)
    assert torch.equal(G_tP, PAST)


def test_double_precision_arguments_are_not_changed():
    """`Tensor.double()` of a float64 tensor is the tensor itself, so in-place work on it would reach the caller."""
    g_P, G_tP = -G.double(), -PAST.double()
    for name in DISTANCES:
        choose(name, g_P, G_tP, 1, rng())
    assert torch.equal(g_P, -G.double())
    assert torch.equal(G_tP, -PAST.double())


@pytest.mark.parametrize("name", DISTANCES)
def test_a_gradient_that_is_not_finite_is_refused(name: str):
    with pytest.raises(ValueError, match="training has diverged"):
        choose(name, G * float("inf"), PAST, 1, rng())


def test_an_unknown_rule_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownNameError, match="did you mean 'cosine'"):
        choose("cosin", G, PAST, 1, rng())


def test_a_negative_number_of_tasks_is_refused():
    with pytest.raises(ValueError, match="at least 0, got -1"):
        choose("cosine", G, PAST, -1, rng())
