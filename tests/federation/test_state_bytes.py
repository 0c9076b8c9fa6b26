"""Client states as bytes: every bit back, of a view only what it shows, and strangers' bytes refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from fedknow_ray.errors import UserError
from fedknow_ray.federation.state_bytes import dump_state, load_state
from fedknow_ray.federation.storable import StateError, StateTypeError
from fedknow_ray.federation.value_bytes import dump_value
from fedknow_ray.methods.method import ClientState

HEAD = np.arange(6, dtype=np.float32).reshape(2, 3)


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """Stands for what a method remembers."""

    weights: torch.Tensor
    labels: tuple[torch.Tensor, ...] = ()
    task: int = -1


TYPES = (Memory,)


def there_and_back(memory: Any) -> Any:
    return load_state(dump_state(ClientState(HEAD, None, memory), TYPES), TYPES).memory


def test_a_state_comes_back_as_it_was():
    state = ClientState(HEAD, np.array([0.5, -0.0], np.float32), None, np.array([2.0], np.float32))
    back = load_state(dump_state(state, ()), ())
    np.testing.assert_array_equal(back.head_CF, HEAD)
    assert back.own_S is not None and back.residual_N is not None
    assert back.own_S.tobytes() == np.array([0.5, -0.0], np.float32).tobytes()
    assert back.residual_N.tolist() == [2.0]
    assert back.memory is None


def test_a_view_is_written_without_the_rest_of_its_storage():
    """Ten of a million weights; torch's own pickle of the same view takes 4 MB."""
    view = torch.arange(1_000_000.0)[500:510]
    assert len(dump_state(ClientState(HEAD, None, view), ())) < 2000
    assert there_and_back(view).tolist() == list(range(500, 510))


def test_a_view_of_an_array_is_written_without_the_rest_of_it():
    own_S = np.zeros(1_000_000, np.float32)[7:17]
    assert len(dump_state(ClientState(HEAD, own_S), ())) < 2000


def test_a_tensor_that_a_memory_holds_twice_is_written_once():
    shared = torch.zeros(10_000)
    memory = Memory(shared, (shared, shared))
    assert len(dump_state(ClientState(HEAD, None, memory), TYPES)) < 2 * shared.nbytes
    back = there_and_back(memory)
    assert back.labels[0] is back.weights


def test_the_same_state_gives_the_same_bytes_again():
    """So that a state that is stored by its digest is stored once; one that was read has its old bytes too."""
    state = ClientState(HEAD, None, Memory(torch.arange(3.0), (torch.zeros(2, 2).T,)))
    data = dump_state(state, TYPES)
    assert dump_state(state, TYPES) == data
    assert dump_state(load_state(data, TYPES), TYPES) == data


@pytest.mark.parametrize("bad", ["undeclared", "wrong field", "no value"])
def test_a_memory_that_cannot_be_read_is_refused_as_it_is_written(bad: str):
    memory, types = {
        "undeclared": (Memory(torch.zeros(1)), ()),
        "wrong field": (Memory(torch.zeros(1), [torch.zeros(1)]), TYPES),  # type: ignore[arg-type]
        "no value": (object(), TYPES),
    }[bad]
    told = {
        "undeclared": r"state\.memory is a .*\.Memory, .* declared in the method's memory_types",
        "wrong field": r"state\.memory\.labels is not what its annotation says: \[tensor",
        "no value": r"state\.memory is a builtins\.object",
    }[bad]
    with pytest.raises(StateTypeError, match=told):
        dump_state(ClientState(HEAD, None, memory), types)


def test_the_memory_of_another_method_is_refused():
    data = dump_state(ClientState(HEAD, None, Memory(torch.zeros(1))), TYPES)
    with pytest.raises(StateError, match=r"state\.memory is of the class 'Memory', which is not among .*: ClientState"):
        load_state(data, ())


@pytest.mark.parametrize(
    "value",
    [
        None,
        Memory(torch.zeros(1)),
        ClientState(HEAD[0]),
        ClientState(HEAD, own_S=HEAD),
        ClientState(HEAD, residual_N=HEAD),
    ],
    ids=["nothing", "another class", "flat head", "own model of two dimensions", "residual of two dimensions"],
)
def test_bytes_that_hold_something_else_are_refused(value: Any):
    with pytest.raises(StateError):
        load_state(dump_value(value, (ClientState, Memory)), TYPES)


def test_arrays_of_another_dtype_are_refused():
    data = dump_state(ClientState(HEAD), ())
    with pytest.raises(StateError, match=r"state\.head_CF is not what ClientState says of it"):
        load_state(data.replace(b'"F32"', b'"I32"').replace(b'\\"float32\\"]', b'\\"int32\\"]  '), ())
    with pytest.raises(StateTypeError, match="head_CF"):
        dump_state(ClientState(HEAD.astype(np.float64)), ())  # type: ignore[arg-type]


def test_a_broken_state_is_something_that_the_user_can_put_right():
    """As a broken checkpoint is: by starting from another one."""
    assert issubclass(StateError, UserError)


SMALL = ClientState(HEAD, None, Memory(torch.zeros(2, 2).T, (torch.ones(1),), 7))
DATA = dump_state(SMALL, TYPES)


def structure(value: Any) -> Any:
    """What a state is made of, without the numbers in its arrays."""
    if isinstance(value, np.ndarray | torch.Tensor):
        return type(value), value.dtype, tuple(value.shape)
    if isinstance(value, Memory):
        return structure(value.weights), tuple(map(structure, value.labels))
    return type(value)


def read(data: bytes) -> Any:
    """The structure of the state that the bytes hold; None where they are refused, as only StateError does."""
    try:
        state = load_state(data, TYPES)
    except StateError:
        return None
    return structure(state.head_CF), structure(state.own_S), structure(state.memory), structure(state.residual_N)


def hits() -> Iterator[tuple[int, bytes]]:
    """Each byte of the small state as other bytes: one bit of it, all of them, and ones that have a meaning in JSON."""
    for place, byte in enumerate(DATA):
        for other in {byte ^ 1, byte ^ 32, byte ^ 128, byte ^ 255, ord('"'), ord("9"), 0} - {byte}:
            yield place, DATA[:place] + bytes([other]) + DATA[place + 1 :]


def test_a_byte_of_the_arrays_is_a_number_and_any_other_is_noticed_or_changes_a_value_alone():
    """No checksum here: a name or a number in the structure may become another one, never another kind of state."""
    start = 8 + int.from_bytes(DATA[:8], "little")
    whole = read(DATA)
    for place, data in hits():
        assert read(data) == whole if place >= start else read(data) in (None, whole), (place, data[place])


def test_a_state_that_is_cut_off_is_refused():
    assert all(read(DATA[:length]) is None for length in range(len(DATA)))
    assert read(DATA + b"\0") is None


def test_thousands_of_broken_states_are_refused_or_read():
    """Bytes changed, cut out, doubled and moved; seeded."""
    rng = np.random.default_rng(7)
    refused = 0
    for _ in range(2000):
        data = bytearray(DATA)
        for _ in range(rng.integers(1, 6)):
            start, length = int(rng.integers(len(data))), int(rng.integers(1, 40))
            match rng.integers(4):
                case 0:
                    data[start] = rng.integers(256)
                case 1:
                    del data[start : start + length]
                case 2:
                    data[start:start] = data[start : start + length]
                case 3:
                    target = int(rng.integers(len(data)))
                    data[target : target + length] = data[start : start + length]
        refused += read(bytes(data)) is None
    assert refused > 1000
