"""Client states as bytes: every bit back, and of a view of a large tensor only what it shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedknow_ray.federation.state_bytes import dump_state, load_state
from fedknow_ray.methods.method import ClientState

HEAD = np.arange(6, dtype=np.float32).reshape(2, 3)


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """Stands for what a method remembers."""

    weights: torch.Tensor
    labels: tuple[torch.Tensor, ...] = ()


def there_and_back(memory: Any) -> Any:
    return load_state(dump_state(ClientState(HEAD, None, memory))).memory


def test_a_state_comes_back_as_it_was():
    state = load_state(dump_state(ClientState(HEAD, np.array([0.5, -0.0], np.float32))))
    np.testing.assert_array_equal(state.head_CF, HEAD)
    assert state.own_S is not None
    assert state.own_S.tobytes() == np.array([0.5, -0.0], np.float32).tobytes()
    assert state.memory is None


def test_a_view_is_written_without_the_rest_of_its_storage():
    """Ten of a million weights; torch's own pickle of the same view takes 4 MB."""
    view = torch.arange(1_000_000.0)[500:510]
    assert len(dump_state(ClientState(HEAD, None, view))) < 2000
    assert there_and_back(view).tolist() == list(range(500, 510))


def test_a_view_of_an_array_is_written_without_the_rest_of_it():
    own_S = np.zeros(1_000_000, np.float32)[7:17]
    assert len(dump_state(ClientState(HEAD, own_S))) < 2000


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(2.5),
        torch.empty(0, 3),
        torch.tensor([True, False]),
        torch.arange(6, dtype=torch.int16).reshape(2, 3),
        torch.tensor([1.5, float("nan"), -0.0]),
        torch.ones(3, dtype=torch.bfloat16),
        torch.arange(6.0).reshape(2, 3).T,
        torch.arange(12.0)[2:8].reshape(2, 3).T,
        torch.arange(12.0)[::2],
        torch.arange(3.0).expand(2, 3),
    ],
    ids=["scalar", "empty", "bool", "int16", "nan", "bfloat16", "transposed", "transposed view", "strided", "expanded"],
)
def test_a_tensor_keeps_type_shape_and_values(tensor: torch.Tensor):
    back = there_and_back(tensor)
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    assert torch.equal(back.nan_to_num(7.0), tensor.nan_to_num(7.0)) if tensor.is_floating_point() else True
    assert torch.equal(back == back, tensor == tensor)


def test_a_dense_tensor_keeps_its_order_in_memory():
    """Sums over the same numbers in another order would be other bits."""
    assert there_and_back(torch.zeros(2, 3).T).stride() == (1, 3)
    assert there_and_back(torch.zeros(9)[3:].reshape(2, 3).T).stride() == (1, 3)


def test_what_comes_back_may_be_written():
    back = there_and_back(torch.zeros(3))
    back += 1
    assert back.tolist() == [1.0, 1.0, 1.0]


def test_a_tensor_that_a_memory_holds_twice_is_written_once():
    shared = torch.zeros(10_000)
    memory = Memory(shared, (shared, shared))
    assert len(dump_state(ClientState(HEAD, None, memory))) < 2 * shared.nbytes
    back = there_and_back(memory)
    assert back.labels[0] is back.weights


def test_a_tensor_with_a_gradient_of_its_own_is_left_to_torch():
    back = there_and_back(torch.ones(2, requires_grad=True))
    assert back.requires_grad
    assert back.tolist() == [1.0, 1.0]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_any_slice_and_order_of_axes_comes_back(shape: list[int], random: Any):
    axes = random.sample(range(len(shape)), len(shape))
    tensor = torch.arange(float(np.prod([side + 1 for side in shape]))).reshape([side + 1 for side in shape])
    view = tensor[tuple(slice(1, None) for _ in shape)].permute(axes)
    assert torch.equal(there_and_back(view), view)
