"""Arrays and tensors as flat arrays and descriptions: every bit and the order in memory back; lies are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedknow_ray.federation.storable import StateError, StateTypeError
from fedknow_ray.federation.stored_arrays import DTYPES, describe, restore

FLOATS = np.array([1.5, -0.0, 5e-324, np.inf], np.float64)


def there_and_back(value: Any) -> Any:
    described, stored = describe(value, "it")
    return restore(described, stored)


def bits(value: Any) -> bytes:
    plain = value.view(torch.uint16) if isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16 else value
    return np.asarray(plain).tobytes()


def strides_of(value: Any) -> tuple[int, ...]:
    return tuple(value.stride()) if isinstance(value, torch.Tensor) else value.strides


TENSORS = {
    "scalar": torch.tensor(2.5),
    "empty": torch.empty(0, 3),
    "empty inside": torch.empty(3, 0, 2),
    "bool": torch.tensor([True, False]),
    "int16": torch.arange(6, dtype=torch.int16).reshape(2, 3),
    "odd bits": torch.tensor([1.5, float("nan"), -0.0, 1e-45]),
    "float16": torch.tensor([0.1, 6e-8], dtype=torch.float16),
    "bfloat16": torch.ones(3, dtype=torch.bfloat16),
    "bfloat16 scalar": torch.tensor(0.1, dtype=torch.bfloat16),
    "bfloat16 transposed": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3).T,
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "transposed view": torch.arange(12.0)[2:8].reshape(2, 3).T,
    "channels last": torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
    "one channel, channels last": torch.arange(12.0).reshape(1, 3, 4, 1).permute(0, 3, 1, 2),
}
ARRAYS = {
    "scalar": np.array(2.5),
    "empty": np.empty((0, 3)),
    "doubles": FLOATS,
    "bool": np.array([True, False]),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "permuted": np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1),
    "one row": np.arange(6, dtype=np.uint8).reshape(6, 1).T,
    "read only": np.frombuffer(b"\1\2\3", np.uint8),
}


@pytest.mark.parametrize(
    "value",
    [*TENSORS.values(), *ARRAYS.values()],
    ids=[*(f"tensor {name}" for name in TENSORS), *(f"array {name}" for name in ARRAYS)],
)
def test_dense_ones_keep_type_shape_bits_and_order_in_memory(value: Any):
    """Sums over the same numbers in another order would be other bits."""
    back = there_and_back(value)
    assert (type(back), back.dtype, back.shape) == (type(value), value.dtype, value.shape)
    assert bits(back) == bits(value)
    assert strides_of(back) == strides_of(value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_comes_back_as_array_and_as_tensor(dtype: str):
    array = np.array([[0, 1, 1]], dtype)
    for value in (array, torch.from_numpy(array)):
        assert there_and_back(value).dtype == value.dtype
        assert bits(there_and_back(value)) == bits(value)


def test_nans_keep_the_bits_that_tell_them_apart():
    singles = np.array([0x7FC00001, 0xFF800123, 0x00000001], np.uint32).view(np.float32)
    doubles = np.array([0x7FF0000000000001, 0xFFF8000000000042], np.uint64).view(np.float64)
    for array in (singles, doubles):
        assert bits(there_and_back(array)) == bits(array)
        assert bits(there_and_back(torch.from_numpy(array))) == bits(array)
        assert bits(there_and_back(array[0])) == array[:1].tobytes()


@pytest.mark.parametrize(
    "value",
    [
        torch.arange(12.0)[::2],
        torch.arange(3.0).expand(2, 3),
        torch.arange(3.0)[:, None].expand(3, 2),
        torch.arange(24.0).reshape(4, 6)[:, 1:4].T,
        np.arange(12)[::-3],
        np.broadcast_to(np.arange(3.0), (2, 3)),
        np.arange(24.0).reshape(4, 6)[:, 1:4].T,
        np.zeros(3, [("x", "i1"), ("y", "<f4")])["y"],
        np.arange(1)[::-1],
    ],
    ids=[
        *("strided", "expanded", "expanded rows", "cut and turned"),
        *("backwards", "broadcast", "cut and turned array", "a field", "one backwards"),
    ],
)
def test_gaps_and_repetitions_are_left_out_and_the_order_of_axes_stays(value: Any):
    back = there_and_back(value)
    assert (type(back), back.dtype, back.shape, back.tolist()) == (
        type(value),
        value.dtype,
        value.shape,
        value.tolist(),
    )
    dense = value.clone() if isinstance(value, torch.Tensor) else value.copy(order="K")
    assert strides_of(back) == strides_of(dense)


def test_tensors_lie_where_torch_would_have_put_them_and_may_be_written():
    """Kernels differ in their last bit by alignment: torch allocates at multiples of 64 bytes."""
    for length in (1, 7, 1000):
        back = there_and_back(torch.arange(1010.0)[3 : 3 + length])
        assert back.data_ptr() % 64 == 0
        back += 1
        assert back[0] == 4.0


@pytest.mark.parametrize("scalar", [np.float32(0.1), np.int64(-3), np.bool_(True), np.float64("nan")])
def test_numpy_scalars_keep_their_type(scalar: np.generic):
    back = there_and_back(scalar)
    assert type(back) is type(scalar)
    assert back.tobytes() == scalar.tobytes()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_any_slice_and_order_of_axes_comes_back(shape: list[int], random: Any):
    axes = random.sample(range(len(shape)), len(shape))
    tensor = torch.arange(float(np.prod([side + 1 for side in shape]))).reshape([side + 1 for side in shape])
    view = tensor[tuple(slice(1, None) for _ in shape)].permute(axes)
    assert torch.equal(there_and_back(view), view)
    np.testing.assert_array_equal(there_and_back(view.numpy()), view.numpy())


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (np.array([None]), "array of object"),
        (np.array(["a"]), "array of <U1"),
        (np.array([1.0], ">f8"), "array of >f8"),
        (np.array([1j]), "array of complex128"),
        (np.zeros([1] * 33), "33 dimensions"),
        (torch.zeros(2, dtype=torch.complex64), "tensor of complex64"),
        (torch.zeros(2, requires_grad=True), r"requires a gradient; keep its detach\(\)"),
        (torch.nn.Parameter(torch.zeros(2), requires_grad=False), "no plain dense tensor"),
        (torch.eye(2).to_sparse(), "no plain dense tensor"),
        (torch.zeros(2, device="meta"), "no plain dense tensor"),
        (torch.zeros([1] * 33), "33 dimensions"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_cannot_be_stored_is_refused_with_its_place(value: Any, told: str):
    with pytest.raises(StateTypeError, match=rf"memory\.x .*{told}"):
        describe(value, "memory.x")


SIX = np.arange(6, dtype=np.float32)


@pytest.mark.parametrize(
    "described",
    [
        None,
        "tensor",
        [],
        ["tensor"],
        ["tensor", "float32", [6]],
        ["tensor", "float32", [6], [1], 0],
        ["storage", "float32"],
        [["tensor"], "float32"],
        ["tensor", None],
        ["tensor", "float64"],
        ["tensor", "bfloat16"],
        ["scalar", "float32"],
        ["tensor", "float32", [6], [2**60]],
        ["tensor", "float32", [2**60], [1]],
        ["tensor", "float32", [2**31, 2**31, 2**31], [1, 1, 1]],
        ["tensor", "float32", [2, 3], [1, 1]],
        ["tensor", "float32", [2, 3], [1, 3]],
        ["tensor", "float32", [2, 3], [1]],
        ["tensor", "float32", [-2, -3], [1, 2]],
        ["tensor", "float32", [2.0, 3], [1, 2]],
        ["tensor", "float32", [True, 6], [6, 1]],
        ["tensor", "float32", [1] * 33 + [6], [6] * 33 + [1]],
        ["tensor", "float32", 6, 1],
        ["array", "float32", [5], [1]],
        ["array", "float32", [2, 3], [0, 1]],
        ["array", "float32", [2, 3], [-3, 1]],
    ],
    ids=str,
)
def test_descriptions_that_do_not_fit_are_refused(described: Any):
    with pytest.raises(StateError):
        restore(described, SIX)


def test_an_empty_array_has_no_order_and_no_sides_beyond_measure():
    with pytest.raises(StateError):
        restore(["tensor", "float32", [0, 3], [1, 1]], SIX[:0])
    with pytest.raises(StateError):
        restore(["tensor", "float32"], np.empty((0, 2**30, 2**30), np.float32))


def test_truth_values_are_true_or_false():
    """Anything else in their place is undefined behaviour in compiled code."""
    stored = np.array([0, 2], np.uint8).view(np.bool_)
    with pytest.raises(StateError, match="neither true nor false"):
        restore(["tensor", "bool"], stored)
