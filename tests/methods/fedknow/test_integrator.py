"""Gradient integration: closed forms, slow twins that share no code with it, optimality conditions and laws.

Slow twins: every active set in turn (k <= 8), a general solver (SLSQP, on the primal), and many projected-gradient
steps on the dual (any k). The primal solution g' is unique, so it is what solvers are compared by.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedknow_ray.methods.fedknow import integrator
from fedknow_ray.methods.fedknow.integrator import combine, gram, integrate, quick_gram, solve_dual, violations_after


def rows(*values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def random_rows(k: int, P: int, seed: int, *, conflict: float = 0.0) -> torch.Tensor:
    """g and k past gradients; `conflict` pulls the past towards -g, so that many constraints are active."""
    G_RP = torch.randn(k + 1, P, generator=torch.Generator().manual_seed(seed))
    G_RP[1:] -= conflict * G_RP[0]
    return G_RP


def unit_problem(G_RP: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return g and the nonzero past gradients as float64 vectors of norm 1."""
    X = G_RP.double().numpy()
    X = X[[0] + [i for i in range(1, len(X)) if X[i].any()]]
    X = X / np.linalg.norm(X, axis=1, keepdims=True)
    return X[0], X[1:]


def by_active_sets(G_RP: torch.Tensor) -> np.ndarray:
    """Project g / ||g|| by trying every set of constraints that might hold with equality: the nearest feasible one."""
    g, A = unit_problem(G_RP)
    candidates = [g]
    for size in range(1, len(A) + 1):
        for chosen in combinations(range(len(A)), size):
            B = A[list(chosen)]
            candidates.append(g - B.T @ np.linalg.lstsq(B.T, g, rcond=1e-10)[0])
    feasible = [x for x in candidates if (A @ x >= -1e-9).all()]
    return min(feasible, key=lambda x: float(np.linalg.norm(x - g)))


def by_slsqp(G_RP: torch.Tensor) -> np.ndarray:
    """Project g / ||g|| with a general solver on the primal problem."""
    g, A = unit_problem(G_RP)
    constraint = {"type": "ineq", "fun": lambda x: A @ x, "jac": lambda _: A}
    result = scipy.optimize.minimize(
        lambda x: 0.5 * ((x - g) ** 2).sum(), g, jac=lambda x: x - g, constraints=[constraint], tol=1e-14
    )
    assert result.success, result.message
    return result.x


def by_projected_gradient(G_RP: torch.Tensor, steps: int = 20_000) -> np.ndarray:
    """Project g / ||g|| by small steps on the dual, each clipped at 0."""
    g, A = unit_problem(G_RP)
    Q, c = A @ A.T, A @ g
    step = 1.0 / np.linalg.eigvalsh(Q)[-1]
    v = np.zeros(len(A))
    for _ in range(steps):
        v = np.maximum(0.0, v - step * (Q @ v + c))
    return g + A.T @ v


def integrated_unit(G_RP: torch.Tensor) -> np.ndarray:
    """Return g' / ||g|| from the module under test, leaving the buffer as it is."""
    result = integrate(G_RP, out=torch.empty(G_RP.shape[1]))
    return result.g_P.double().numpy() / float(G_RP[0].double().norm())


def assert_optimal(G_RP: torch.Tensor, tolerance: float = 2e-6) -> None:
    """Assert the KKT conditions of the scaled problem: v >= 0, <g', G_i> >= 0, and one of each pair is 0."""
    result = integrate(G_RP, out=torch.empty(G_RP.shape[1]))
    X = G_RP.double().numpy()
    norms = np.linalg.norm(X, axis=1)
    live = norms[1:] > 0
    scaled_v = result.multipliers[live] * norms[1:][live] / norms[0]
    slack = X[1:][live] @ result.g_P.double().numpy() / norms[1:][live] / norms[0]
    assert (result.multipliers >= 0).all()
    assert (result.multipliers[~live] == 0).all()
    assert slack.min(initial=0.0) >= -tolerance
    assert np.minimum(scaled_v, slack).max(initial=0.0) <= tolerance


DEGENERATE = {
    "duplicate rows": lambda G: torch.cat([G, G[1:]]),
    "a zero row": lambda G: torch.cat([G, torch.zeros_like(G[:1])]),
    "only zero rows": lambda G: torch.cat([G[:1], torch.zeros_like(G)]),
    "the opposite of g": lambda G: torch.cat([G, -G[:1]]),
    "a multiple of the opposite of g": lambda G: torch.cat([G, -1000 * G[:1]]),
    "opposite rows": lambda G: torch.cat([G, -G[1:]]),
    "collinear rows": lambda G: torch.cat([G, 3 * G[1:2], 0.01 * G[1:2]]),
    "dependent rows": lambda G: torch.cat([G, G[1:2] + G[2:3], G[1:2] - G[2:3]]),
    "g in the span of the past": lambda G: torch.cat([(G[1] - 2 * G[2])[None], G[1:]]),
    "nearly opposite rows": lambda G: torch.cat([G, -G[1:2] + 1e-3 * G[2:3]]),
    "badly scaled rows": lambda G: G * torch.logspace(-8, 4, len(G))[:, None],
    "badly scaled the other way": lambda G: G * torch.logspace(4, -8, len(G))[:, None],
    "tiny beyond float32 normals": lambda G: G * 1e-38,
    "more tasks than weights": lambda G: torch.cat(
        [G[:1, :3], torch.randn(7, 3, generator=torch.Generator().manual_seed(3))]
    ),
}


# --- literals -----------------------------------------------------------------------------------------------------


def test_a_compatible_gradient_is_left_unchanged_bit_for_bit():
    """Orthogonal counts as compatible."""
    G_RP = rows([1.0, 0.1, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0])
    before = G_RP.clone()
    result = integrate(G_RP)
    assert torch.equal(G_RP, before)
    assert torch.equal(result.g_P, before[0])
    assert not result.violated
    assert result.multipliers.tolist() == [0.0, 0.0]


def test_a_compatible_gradient_is_copied_to_out():
    out = torch.full((2,), 7.0)
    assert integrate(rows([1.0, 2.0], [1.0, 0.0]), out=out).g_P is out
    assert out.tolist() == [1.0, 2.0]


def test_one_violated_task_takes_its_component_away():
    """g = (1, -2), G_1 = (0, 2): <g, G_1> = -4, v = 4 / 4, g' = (1, 0)."""
    result = integrate(rows([1.0, -2.0], [0.0, 2.0]))
    np.testing.assert_allclose(result.g_P, [1.0, 0.0], atol=1e-9)
    np.testing.assert_allclose(result.multipliers, [1.0])
    assert result.violated
    assert result.violations == 1


def test_a_task_that_is_satisfied_once_another_is_has_no_multiplier():
    """g = (-2, -1, 1); adding 2 of (1, .5, 0) gives (0, 0, 1), to which (1, .4, .3) is at an acute angle."""
    result = integrate(rows([-2.0, -1.0, 1.0], [1.0, 0.5, 0.0], [1.0, 0.4, 0.3]))
    np.testing.assert_allclose(result.g_P, [0.0, 0.0, 1.0], atol=1e-7)
    np.testing.assert_allclose(result.multipliers, [2.0, 0.0], atol=1e-7)
    assert result.violations == 2


def test_repairing_one_violation_must_not_make_another():
    """The answer to (0, 1, 0) alone is (1, 0, 1), which violates (-1, 1, 0); both leave only the third axis."""
    result = integrate(rows([1.0, -1.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 1.0, 0.0]))
    np.testing.assert_allclose(result.g_P, [0.0, 0.0, 1.0], atol=1e-7)


def test_the_result_replaces_row_zero_when_no_out_is_given():
    G_RP = rows([1.0, -2.0], [0.0, 2.0])
    result = integrate(G_RP)
    assert result.g_P.data_ptr() == G_RP.data_ptr()
    np.testing.assert_allclose(G_RP, [[1.0, 0.0], [0.0, 2.0]], atol=1e-9)


def test_with_out_the_buffer_stays_as_it_is():
    G_RP = rows([1.0, -2.0], [0.0, 2.0])
    before, out = G_RP.clone(), torch.empty(2)
    assert integrate(G_RP, out=out).g_P is out
    assert torch.equal(G_RP, before)


def test_without_past_gradients_nothing_happens():
    result = integrate(rows([1.0, 2.0]))
    assert result.g_P.tolist() == [1.0, 2.0]
    assert result.multipliers.shape == (0,)


def test_a_zero_gradient_stays_zero():
    assert not integrate(rows([0.0, 0.0], [1.0, 0.0])).violated


def test_the_opposite_of_a_past_gradient_vanishes():
    """A ridge of 1e-6 would leave that much of it, all against the past task; Adam would make a full step of it."""
    G_RP = random_rows(1, 1000, 0)
    G_RP[1] = -4 * G_RP[0]
    assert float(integrate(G_RP, out=torch.empty(1000)).g_P.norm() / G_RP[0].norm()) < 1e-11


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_refused(bad: float):
    with pytest.raises(ValueError, match="training has diverged"):
        integrate(rows([1.0, bad], [1.0, 0.0]))


# --- margin, as in the authors' code ------------------------------------------------------------------------------


def test_with_a_margin_every_multiplier_is_at_least_that_once_one_task_is_violated():
    """Only the first task is violated; the second is added half all the same."""
    result = integrate(rows([1.0, -0.1, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]), margin=0.5)
    assert result.multipliers.tolist() == [0.5, 0.5]
    np.testing.assert_allclose(result.g_P, [1.0, 0.4, 0.5])


def test_with_a_margin_a_compatible_gradient_is_still_left_unchanged():
    assert integrate(rows([1.0, 1.0], [0.0, 1.0]), margin=0.5).g_P.tolist() == [1.0, 1.0]


@given(seed=st.integers(0, 300), k=st.integers(1, 6), margin=st.sampled_from([0.01, 0.5, 3.0]))
def test_with_a_margin_the_dual_is_that_of_a_bounded_least_squares_solver(seed: int, k: int, margin: float):
    X = random_rows(k, 20, seed, conflict=0.5).double().numpy()
    v = solve_dual(X @ X.T, margin)
    expected = scipy.optimize.lsq_linear(X[1:].T, -X[0], bounds=(margin, np.inf), tol=1e-14).x
    assert (v >= margin).all()
    np.testing.assert_allclose(X[1:].T @ v, X[1:].T @ expected, atol=1e-4)


def test_a_negative_margin_is_refused():
    with pytest.raises(ValueError, match="the margin must be at least 0, got -1"):
        solve_dual(np.eye(2), -1)


# --- slow twins ---------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000), P=st.integers(1, 40), conflict=st.sampled_from([0.0, 0.3, 1.0]))
def test_one_past_gradient_has_a_closed_form(seed: int, P: int, conflict: float):
    """g' = g - min(0, <g, G_1>) / ||G_1||^2 G_1."""
    G_RP = random_rows(1, P, seed, conflict=conflict)
    g, past = G_RP.double().numpy()
    expected = g - min(0.0, g @ past) / (past @ past) * past
    result = integrate(G_RP, out=torch.empty(P))
    np.testing.assert_allclose(result.g_P, expected, atol=2e-6 * np.linalg.norm(g))


@given(
    seed=st.integers(0, 10_000), k=st.integers(1, 6), P=st.integers(2, 12), conflict=st.sampled_from([0.0, 0.3, 1.0])
)
def test_random_problems_agree_with_every_active_set(seed: int, k: int, P: int, conflict: float):
    """Some have more tasks than weights."""
    G_RP = random_rows(k, P, seed, conflict=conflict)
    np.testing.assert_allclose(integrated_unit(G_RP), by_active_sets(G_RP), atol=3e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 10, 15, 20])
@pytest.mark.parametrize("conflict", [0.0, 0.2, 1.0])
def test_random_problems_agree_with_a_general_solver(k: int, conflict: float):
    G_RP = random_rows(k, 40, k, conflict=conflict)
    np.testing.assert_allclose(integrated_unit(G_RP), by_slsqp(G_RP), atol=3e-6)


@pytest.mark.parametrize("k", [4, 9, 20])
def test_random_problems_agree_with_projected_gradient_steps(k: int):
    G_RP = random_rows(k, 300, k, conflict=0.3)
    np.testing.assert_allclose(integrated_unit(G_RP), by_projected_gradient(G_RP), atol=3e-6)


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("seed", range(5))
def test_degenerate_problems_agree_with_every_active_set(name: str, seed: int):
    G_RP = DEGENERATE[name](random_rows(3, 10, seed, conflict=0.4))
    np.testing.assert_allclose(integrated_unit(G_RP), by_active_sets(G_RP), atol=3e-6)


# --- optimality ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("seed", range(5))
def test_degenerate_problems_are_solved_to_optimality(name: str, seed: int):
    assert_optimal(DEGENERATE[name](random_rows(3, 10, seed, conflict=0.4)))


@pytest.mark.parametrize("k", range(1, 21))
@pytest.mark.parametrize("scale", ["even", "uneven"])
def test_problems_of_every_size_are_solved_to_optimality(k: int, scale: str):
    G_RP = random_rows(k, 50, k, conflict=0.3)
    if scale == "uneven":
        G_RP *= 10.0 ** torch.randint(-8, 5, (k + 1, 1), generator=torch.Generator().manual_seed(k))
    assert_optimal(G_RP)


@pytest.mark.parametrize("k", [5, 20])
def test_twenty_nearly_equal_tasks_are_solved_to_optimality(k: int):
    """Past gradients that differ by 1e-3: what a slowly moving model gives."""
    G_RP = random_rows(k, 200, 0)
    G_RP[1:] = -G_RP[0] + G_RP[1] + 1e-3 * G_RP[1:]
    assert_optimal(G_RP)


# --- laws ---------------------------------------------------------------------------------------------------------

problems = st.builds(
    random_rows,
    k=st.integers(1, 20),
    P=st.integers(3, 60),
    seed=st.integers(0, 10_000),
    conflict=st.sampled_from([0.0, 0.2, 1.0]),
)


@given(problems)
def test_law_optimality(G_RP: torch.Tensor):
    assert_optimal(G_RP)


@given(problems, st.integers(-20, 20), st.integers(-20, 20))
def test_law_scaling_the_current_gradient_scales_the_result_and_scaling_the_past_changes_nothing(
    G_RP: torch.Tensor, g_exponent: int, past_exponent: int
):
    """Powers of two, so that scaling itself is exact."""
    scaled_RP = G_RP * 2.0**past_exponent
    scaled_RP[0] = G_RP[0] * 2.0**g_exponent
    np.testing.assert_allclose(integrated_unit(scaled_RP), integrated_unit(G_RP), atol=1e-6)


@given(problems, st.randoms(use_true_random=False))
def test_law_permuting_the_past_permutes_the_multipliers(G_RP: torch.Tensor, random):
    """Few tasks in many dimensions, where the multipliers are unique."""
    G_RP = G_RP[: max(2, G_RP.shape[1] // 2)]
    order = list(range(len(G_RP) - 1))
    random.shuffle(order)
    permuted_RP = torch.cat([G_RP[:1], G_RP[1:][order]])
    np.testing.assert_allclose(solve_dual(gram(permuted_RP)), solve_dual(gram(G_RP))[order], rtol=1e-6, atol=1e-8)


@given(problems)
def test_law_a_duplicated_task_splits_its_multiplier(G_RP: torch.Tensor):
    G_RP = G_RP[: max(2, G_RP.shape[1] // 2)]
    doubled = solve_dual(gram(torch.cat([G_RP, G_RP[1:2]])))
    assert doubled[0] + doubled[-1] == pytest.approx(solve_dual(gram(G_RP))[0], rel=1e-5, abs=1e-7)


@given(problems)
def test_law_no_feasible_candidate_is_closer_to_the_gradient(G_RP: torch.Tensor):
    """Candidates: conic combinations of rows that were made feasible by the slow projection of other starts."""
    g, A = unit_problem(G_RP)
    distance = np.linalg.norm(integrated_unit(G_RP) - g)
    rng = np.random.default_rng(0)
    for start in rng.normal(size=(5, len(g))) * 0.3 + g:
        v = scipy.optimize.nnls(A.T, -start)[0]
        candidate = start + A.T @ v
        assert (A @ candidate >= -1e-9).all()
        assert distance <= np.linalg.norm(candidate - g) + 1e-6


@given(problems)
def test_law_integrating_the_result_again_changes_nothing(G_RP: torch.Tensor):
    """Unless next to nothing was left of g, whose direction is then rounding."""
    result_P = integrate(G_RP, out=torch.empty(G_RP.shape[1])).g_P
    if result_P.norm() > 1e-2 * G_RP[0].norm():
        again_RP = torch.cat([result_P[None], G_RP[1:]])
        np.testing.assert_allclose(integrated_unit(again_RP), result_P / result_P.norm(), atol=2e-6)


@given(problems)
def test_law_the_norm_never_grows(G_RP: torch.Tensor):
    assert np.linalg.norm(integrated_unit(G_RP)) <= 1 + 1e-6


# --- when scipy fails ---------------------------------------------------------------------------------------------


def raise_too_many_iterations(*_: object) -> None:
    raise RuntimeError("Maximum number of iterations reached.")


@pytest.mark.parametrize("failure", [raise_too_many_iterations, lambda L, b: (np.full(len(b), 7.0), 0.0)])
@pytest.mark.parametrize("k", [1, 3, 10, 20])
def test_when_scipy_fails_or_errs_coordinate_descent_solves_it(monkeypatch, failure, k: int):
    G_RP = random_rows(k, 60, k, conflict=0.4)
    expected = integrated_unit(G_RP)
    monkeypatch.setattr(integrator, "nnls", failure)
    np.testing.assert_allclose(integrated_unit(G_RP), expected, atol=2e-6)


@pytest.mark.parametrize("name", DEGENERATE)
def test_coordinate_descent_lowers_the_objective_even_where_it_does_not_converge(monkeypatch, name: str):
    monkeypatch.setattr(integrator, "nnls", raise_too_many_iterations)
    monkeypatch.setattr(integrator, "_SWEEPS", 3)
    gram_RR = gram(DEGENERATE[name](random_rows(3, 10, 1, conflict=0.4)))
    v = solve_dual(gram_RR)
    assert (v >= 0).all()
    assert 0.5 * v @ gram_RR[1:, 1:] @ v + gram_RR[1:, 0] @ v <= 0


# --- the passes over the weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize("P", [1, 100, 16_384, 16_385, 40_000])
def test_gram_is_the_product_of_all_rows_in_double_precision(P: int):
    G_RP = random_rows(4, P, 0)
    X = G_RP.double().numpy()
    assert gram(G_RP).dtype == np.float64
    np.testing.assert_allclose(gram(G_RP), X @ X.T, rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("P", [65_536, 100_001, 1_000_000])
@pytest.mark.parametrize("spread", [1.0, 1e6])
def test_quick_gram_errs_by_less_than_1e_7_of_the_norms(P: int, spread: float):
    """Even where single weights are a million times larger than others: 5.8e-8 with AVX2, below 5e-8 with AVX-512."""
    G_RP = random_rows(10, P, 0) * torch.logspace(0, float(np.log10(spread)), P)
    expected = gram(G_RP)
    norms = np.sqrt(expected.diagonal())
    assert np.abs((quick_gram(G_RP) - expected) / norms / norms[:, None]).max() < 1e-7


@pytest.mark.parametrize("conflict", [0.0, 0.3, 0.9])
def test_the_quick_gram_moves_a_large_problem_by_less_than_rounding(monkeypatch: pytest.MonkeyPatch, conflict: float):
    G_RP = random_rows(9, 200_000, 1, conflict=conflict)
    quick_P = integrate(G_RP, out=torch.empty(200_000)).g_P
    monkeypatch.setattr(integrator, "quick_gram", gram)
    exact_P = integrate(G_RP, out=torch.empty(200_000)).g_P
    assert float((quick_P - exact_P).norm() / exact_P.norm()) < 2e-7


@pytest.mark.parametrize("hard", ["nearly equal rows", "a tiny row", "a zero row", "a huge row"])
def test_large_problems_that_the_quick_gram_is_too_coarse_for_are_solved_to_optimality(hard: str):
    G_RP = random_rows(3, 70_000, 2, conflict=0.5)
    if hard == "nearly equal rows":
        G_RP[2] = G_RP[1] + 1e-4 * G_RP[2]
    else:
        G_RP[2] *= {"a tiny row": 1e-25, "a zero row": 0.0, "a huge row": 1e25}[hard]
    assert_optimal(G_RP)


@pytest.mark.parametrize("P", [1, 100, 16_384, 16_385, 40_000])
def test_combine_adds_the_weighted_past_and_rounds_once(P: int):
    G_RP, v = random_rows(3, P, 0), np.array([0.5, 0.0, 1e-3])
    expected = (G_RP[0].double() + torch.from_numpy(v) @ G_RP[1:].double()).float()
    torch.testing.assert_close(combine(G_RP, v, torch.empty(P)), expected, rtol=2e-7, atol=1e-9)


def test_a_huge_multiplier_of_a_tiny_gradient_does_not_overflow():
    """1e-38 needs a multiplier of 1e38 and more, beyond float32."""
    result = integrate(rows([1.0, -10.0], [0.0, 1e-38]))
    np.testing.assert_allclose(result.g_P, [1.0, 0.0], atol=1e-6)


def test_violations_after_counts_the_obtuse_angles():
    G_kP = rows([1.0, 0.0], [-1.0, 0.0], [-1.0, -1e-3], [0.0, 0.0], [0.0, 1.0])
    assert violations_after(torch.tensor([2.0, 0.0]), G_kP) == 2


def test_violations_after_does_not_count_rounding():
    """A right angle up to 1e-7 is no violation, 1e-5 is one."""
    update_P = torch.tensor([1.0, 0.0])
    assert violations_after(update_P, rows([-1e-7, 1.0])) == 0
    assert violations_after(update_P, rows([-1e-5, 1.0])) == 1


@given(problems)
def test_violations_after_integration_are_none(G_RP: torch.Tensor):
    g_P = integrate(G_RP, out=torch.empty(G_RP.shape[1])).g_P
    if g_P.norm() > 1e-2 * G_RP[0].norm():
        assert violations_after(g_P, G_RP[1:]) == 0


@given(problems)
def test_violations_before_are_those_of_the_gradient_itself(G_RP: torch.Tensor):
    expected = violations_after(G_RP[0], G_RP[1:])
    assert integrate(G_RP, out=torch.empty(G_RP.shape[1])).violations == expected


def test_the_sign_of_an_integrated_gradient_may_violate_again():
    """Why violations are counted after an Adam step: its first step is the sign of g'."""
    g_P = integrate(rows([10.0, 4.0, 3.0], [-9.0, 1.0, 1.0])).g_P
    np.testing.assert_allclose(g_P, [1.0, 5.0, 4.0], rtol=1e-6)
    assert violations_after(g_P, rows([-9.0, 1.0, 1.0])) == 0
    assert violations_after(g_P.sign(), rows([-9.0, 1.0, 1.0])) == 1


def test_equal_inputs_give_equal_bits():
    G_RP = random_rows(9, 40_000, 0, conflict=0.2)
    first, second = (integrate(G_RP, out=torch.empty(40_000)) for _ in range(2))
    assert torch.equal(first.g_P, second.g_P)
    assert first.multipliers.tolist() == second.multipliers.tolist()
