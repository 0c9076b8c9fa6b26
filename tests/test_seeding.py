"""Random streams: each depends on its labels alone, and torch's global generator is given back."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedknow_ray.seeding import derive_seed, stream, torch_mark, torch_stream

indices = st.integers(-1, 50)
labels = st.tuples(st.integers(0, 2**31), st.sampled_from(["cohort", "train/order"]), indices, indices, indices)


def seed_of(label: tuple[int, str, int, int, int]) -> int:
    seed, purpose, client, task, round_index = label
    return derive_seed(seed, purpose, client=client, task=task, round_index=round_index)


def test_the_derivation_never_changes():
    """The first eight bytes of sha256("1/cohort/client=-1/task=0/round=2"), without the top bit: old runs repeat."""
    assert derive_seed(1, "cohort", task=0, round_index=2) == 1_806_415_867_280_562_940


@given(labels, labels)
def test_different_labels_have_different_seeds(
    one: tuple[int, str, int, int, int], other: tuple[int, str, int, int, int]
):
    assert (seed_of(one) == seed_of(other)) is (one == other)


@given(labels)
def test_seeds_fit_63_bits(label: tuple[int, str, int, int, int]):
    assert 0 <= seed_of(label) < 2**63


def test_equal_streams_draw_equal_numbers():
    draws = [stream(1, "x", client=3).random(5).tolist() for _ in range(2)]
    assert draws[0] == draws[1] != stream(1, "x", client=4).random(5).tolist()


def test_seeds_do_not_depend_on_pythons_hash_seed():
    code = "from fedknow_ray.seeding import derive_seed; print(derive_seed(7, 'a', client=1))"
    seen = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": hash_seed}
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert seen == {f"{derive_seed(7, 'a', client=1)}\n"}


def test_a_torch_stream_draws_the_same_whatever_came_before():
    with torch_stream(3):
        first = torch.rand(4)
    torch.rand(1)
    with torch_stream(3):
        assert torch.equal(torch.rand(4), first)


def test_a_torch_stream_puts_the_old_state_back():
    before = torch.get_rng_state()
    with torch_stream(3):
        torch.rand(4)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_torch_stream_puts_the_old_state_back_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="stop"), torch_stream(3):
        raise RuntimeError("stop")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_mark_repeats_the_draws_after_it():
    with torch_stream(3):
        torch.rand(1)
        go_back = torch_mark()
        first = torch.rand(4)
        go_back()
        assert torch.equal(torch.rand(4), first)
