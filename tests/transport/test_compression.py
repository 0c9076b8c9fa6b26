"""Compressed updates: numbers by hand, exact lengths, and nothing lost for good where the client keeps the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from fedknow_ray.errors import DivergenceError, UserError
from fedknow_ray.transport.compression import (
    Compressor,
    Float16,
    Int8,
    TopK,
    largest,
    make_compressor,
    read_updates,
)
from fedknow_ray.transport.payload import PayloadError, encode
from fedknow_ray.transport.update_layout import UpdateLayout

#: Two tensors of 2 and 3 weights.
PLAIN = UpdateLayout((2, 3))
#: Beside them two statistics and a global head of 2 x 2.
WHOLE = UpdateLayout((2, 3), statistics=2, head=(2, 2))
KINDS: dict[str, dict[str, Any]] = {"float16": {}, "int8": {}, "topk": {"fraction": 0.3}}
each_kind = pytest.mark.parametrize("name", KINDS)
each_layout = pytest.mark.parametrize("layout", [PLAIN, WHOLE], ids=["features", "statistics and head"])


def vector(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def features(*values: float) -> dict[str, NDArray[np.float32]]:
    return {"features": vector(*values)}


def random_model(layout: UpdateLayout, seed: int, size: float = 1.0) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    weights_N = (size * rng.normal(size=layout.N)).astype(np.float32)
    return layout.join(weights_N, rng.random(layout.statistics, dtype=np.float32))


def made(name: str, layout: UpdateLayout) -> Compressor:
    compressor = make_compressor(name, layout, **KINDS[name])
    assert compressor is not None
    return compressor


def test_float16_sends_the_weights_in_eleven_binary_digits():
    """1 + 2^-10 is one; 1 + 2^-11 lies half way to it and is rounded to the even 1; 2049 is no half, 2048 is."""
    compressor, base = Float16(PLAIN), features(9, 9, 9, 9, 9)
    sent, residual_N = compressor.compress(features(1 + 2**-10, 1 + 2**-11, 2049, -0.25, 65504), base, None)
    assert residual_N is None
    assert sent["weights"].dtype == np.float16
    assert compressor.restore(sent, None)["features"].tolist() == [1 + 2**-10, 1, 2048, -0.25, 65504]


def test_a_weight_beyond_float16_is_refused():
    with pytest.raises(UserError, match=r"a weight of size 70000 is beyond float16.*choose compression.name int8"):
        Float16(PLAIN).compress(features(1, 2, 3, 4, -70000), features(0, 0, 0, 0, 0), None)


def test_int8_by_hand():
    """Differences (254, -1) in steps of 2, and (0, 0, 0) in steps of 0: -1/2 is rounded to the even 0 and kept."""
    compressor = Int8(PLAIN)
    sent, residual_N = compressor.compress(features(255, 0, 5, 5, 5), features(1, 1, 5, 5, 5), None)
    assert sent["scales"].tolist() == [2, 0]
    assert sent["weights"].tolist() == [127, 0, 0, 0, 0]
    assert residual_N is not None
    assert residual_N.tolist() == [0, -1, 0, 0, 0]
    assert compressor.restore(sent, features(1, 1, 5, 5, 5))["features"].tolist() == [255, 1, 5, 5, 5]


def test_int8_sends_later_what_was_left():
    """The -1 of before and another -1 on a new broadcast are one step of 2, which now is sent."""
    compressor = Int8(PLAIN)
    sent, residual_N = compressor.compress(features(264, 9, 5, 5, 5), features(10, 10, 5, 5, 5), vector(0, -1, 0, 0, 0))
    assert sent["weights"].tolist() == [127, -1, 0, 0, 0]
    assert residual_N is not None
    assert residual_N.tolist() == [0, 0, 0, 0, 0]
    assert compressor.restore(sent, features(10, 10, 5, 5, 5))["features"].tolist() == [264, 8, 5, 5, 5]


def test_int8_keeps_what_is_too_small_for_a_scale():
    """The least float32 above 0, over 127, is 0."""
    tiny = float(np.finfo(np.float32).smallest_subnormal)
    sent, residual_N = Int8(PLAIN).compress(features(tiny, 0, 0, 0, 0), features(0, 0, 0, 0, 0), None)
    assert (sent["scales"].tolist(), sent["weights"].tolist()) == ([0, 0], [0] * 5)
    assert residual_N is not None
    assert residual_N.tolist() == [tiny, 0, 0, 0, 0]


def test_topk_by_hand():
    """2 of 5: of the differences (1, -3, 0, 2, -2) -3 and the first of size 2."""
    compressor, base = TopK(PLAIN, 0.4), features(10, 10, 10, 10, 10)
    sent, residual_N = compressor.compress(features(11, 7, 10, 12, 8), base, None)
    assert (sent["places"].tolist(), sent["values"].tolist()) == ([1, 3], [-3, 2])
    assert residual_N is not None
    assert residual_N.tolist() == [1, 0, 0, 0, -2]
    assert compressor.restore(sent, base)["features"].tolist() == [10, 7, 10, 12, 10]
    sent, residual_N = compressor.compress(features(10, 10, 10, 10, 9), base, residual_N)
    assert (sent["places"].tolist(), sent["values"].tolist()) == ([0, 4], [1, -3])
    assert residual_N is not None
    assert residual_N.tolist() == [0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("fraction", "size", "k"), [(0.07, 100, 7), (0.01, 101, 2), (1e-9, 5, 1), (1.0, 5, 5), (0.1, 30, 3), (0.3, 9, 3)]
)
def test_k_is_the_fraction_as_it_is_written_rounded_up(fraction: float, size: int, k: int):
    """In binary 0.07 x 100 is more than 7."""
    assert TopK(UpdateLayout((size,)), fraction).k == k


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5])
def test_a_fraction_that_is_none_is_refused(fraction: float):
    with pytest.raises(ValueError, match="fraction"):
        TopK(PLAIN, fraction)


@settings(deadline=None)
@given(hnp.arrays(np.float32, st.integers(1, 30), elements=st.integers(-3, 3)), st.data())
def test_the_largest_are_the_first_of_a_stable_sort(values_N: NDArray[np.float32], data: st.DataObject):
    k = data.draw(st.integers(1, values_N.size))
    expected = sorted(np.argsort(-np.abs(values_N), kind="stable")[:k].tolist())
    assert largest(values_N, k).tolist() == expected


@pytest.mark.parametrize(
    ("layout", "name", "sizes"),
    [
        (PLAIN, "float16", [10]),
        (PLAIN, "int8", [5, 8]),
        (PLAIN, "topk", [8, 8]),  # 2 of 5
        (WHOLE, "float16", [18, 8]),
        (WHOLE, "int8", [9, 12, 8]),
        (WHOLE, "topk", [12, 12, 8]),  # 3 of 9
    ],
)
def test_the_bytes_of_an_update_by_hand(layout: UpdateLayout, name: str, sizes: list[int]):
    """Each array at a multiple of 64 bytes behind the header, which fills 64 or 128."""
    compressor = made(name, layout)
    sent, _ = compressor.compress(random_model(layout, 1), random_model(layout, 2), None)
    assert [array.nbytes for array in sent.values()] == sizes
    header = 8 + len(f"[{','.join(entry_text(key, sent[key]) for key in sent)}]")
    start = -(-header // 64) * 64
    assert encode(sent).nbytes == compressor.update_bytes == start + 64 * (len(sizes) - 1) + sizes[-1]


def entry_text(name: str, array: NDArray[Any]) -> str:
    return f'["{name}","{array.dtype.name}",[{array.size}]]'


@each_kind
@each_layout
@settings(deadline=None)
@given(seed=st.integers(0, 10**6))
def test_every_update_has_the_length_that_was_announced(name: str, layout: UpdateLayout, seed: int):
    compressor = made(name, layout)
    sent, residual_N = compressor.compress(random_model(layout, seed), random_model(layout, seed + 1), None)
    assert encode(sent).nbytes == compressor.update_bytes
    assert (0 if residual_N is None else residual_N.nbytes) == compressor.residual_bytes


def test_the_work_by_hand():
    """9 values: 6 bytes each for float16; 16 + 8 + 1 for int8; 16 + 8 and 12 for each of 3 sent for topk."""
    work = {name: (made(name, WHOLE).flops, made(name, WHOLE).moved_bytes) for name in KINDS}
    assert work == {"float16": (0, 54), "int8": (18, 225), "topk": (0, 252)}


@each_kind
def test_statistics_go_as_they_are(name: str):
    model, base = random_model(WHOLE, 3), random_model(WHOLE, 4)
    model["features"][-2:] = (1e30, 1e-30)
    compressor = made(name, WHOLE)
    sent, _ = compressor.compress(model, base, None)
    restored = compressor.restore(sent, base)
    np.testing.assert_array_equal(restored["features"][-2:], model["features"][-2:])
    assert {key: array.shape for key, array in restored.items()} == {"features": (7,), "head": (2, 2)}


@each_kind
@each_layout
def test_arguments_stay_as_they_are_and_may_be_read_only(name: str, layout: UpdateLayout):
    """The own model is kept, the broadcast is shared, and a lost visit is made again from the same residual."""
    model, base, residual_N = random_model(layout, 3), random_model(layout, 4), random_vector(layout.N)
    copies = [array.copy() for array in (*model.values(), *base.values(), residual_N)]
    for array in (*model.values(), *base.values(), residual_N):
        array.setflags(write=False)
    compressor = made(name, layout)
    sent, _ = compressor.compress(model, base, residual_N)
    compressor.restore(sent, base)
    for array, copied in zip((*model.values(), *base.values(), residual_N), copies, strict=True):
        np.testing.assert_array_equal(array, copied)


def random_vector(size: int) -> NDArray[np.float32]:
    return np.random.default_rng(5).normal(size=size).astype(np.float32)


@pytest.mark.parametrize("name", ["int8", "topk"])
@each_layout
@settings(deadline=None)
@given(seed=st.integers(0, 10**6), exponents=st.lists(st.integers(-12, 12), min_size=1, max_size=8))
def test_what_was_sent_and_what_is_left_add_up_to_what_was_due(
    name: str, layout: UpdateLayout, seed: int, exponents: list[int]
):
    """The law of error feedback, over visits of sizes from 2^-12 to 2^12. Three operations in float32 a visit (the
    difference, the debt, what is left), each off by at most 2^-24 of its operands."""
    compressor, residual_N = made(name, layout), None
    due_N, sent_N, bound_N = (np.zeros(layout.N) for _ in range(3))
    for visit, exponent in enumerate(exponents):
        base = random_model(layout, seed + 2 * visit, 2.0**exponent)
        model = random_model(layout, seed + 2 * visit + 1, 2.0**exponent)
        sent, after_N = compressor.compress(model, base, residual_N)
        zero = layout.join(np.zeros(layout.N, np.float32), np.zeros(layout.statistics, np.float32))
        part_N = layout.split(compressor.restore(sent, zero))[0]
        weights_N, base_N = layout.split(model)[0], layout.split(base)[0]
        assert after_N is not None
        due_N += weights_N.astype(np.float64) - base_N
        sent_N += part_N
        owed_N = np.zeros(layout.N) if residual_N is None else np.abs(residual_N)
        bound_N += 2.0**-24 * 3 * (np.abs(weights_N) + np.abs(base_N) + owed_N + np.abs(part_N))
        residual_N = after_N
    assert residual_N is not None
    assert (np.abs(due_N - sent_N - residual_N) <= bound_N).all()


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), exponent=st.integers(-20, 20))
def test_int8_is_off_by_half_a_step_at_most(seed: int, exponent: int):
    model, base = random_model(WHOLE, seed, 2.0**exponent), random_model(WHOLE, seed + 1, 2.0**exponent)
    sent, residual_N = Int8(WHOLE).compress(model, base, None)
    assert residual_N is not None
    half_N = np.repeat(sent["scales"], WHOLE.pieces) / 2
    assert (np.abs(residual_N) <= half_N * (1 + 1e-4)).all()


@each_layout
def test_topk_of_all_values_is_the_update(layout: UpdateLayout):
    model, base = random_model(layout, 1), random_model(layout, 2)
    compressor = TopK(layout, 1.0)
    sent, residual_N = compressor.compress(model, base, None)
    assert residual_N is not None
    assert not residual_N.any()
    for key, array in compressor.restore(sent, base).items():
        np.testing.assert_allclose(array, model[key], rtol=0, atol=1e-6)


@each_kind
@each_layout
def test_a_round_trip_through_a_payload_is_what_the_server_reads(name: str, layout: UpdateLayout):
    model, base = random_model(layout, 1), random_model(layout, 2)
    compressor = made(name, layout)
    sent, _ = compressor.compress(model, base, None)
    (read,) = read_updates(compressor, [encode(sent)], [encode(base)] if compressor.feeds_back else [])
    expected = compressor.restore(sent, base)
    assert {key: array.dtype for key, array in read.items()} == dict.fromkeys(model, np.float32)
    for key in model:
        assert read[key].tobytes() == expected[key].tobytes()


def test_without_compression_a_payload_is_read_as_it_is():
    payload = encode(features(1, 2))
    assert make_compressor("none", PLAIN) is None
    assert [model["features"].tolist() for model in read_updates(None, [payload, payload])] == [[1, 2], [1, 2]]


@each_kind
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_update_that_is_no_number_is_divergence(name: str, value: float):
    with pytest.raises(DivergenceError, match="no finite number"):
        made(name, PLAIN).compress(features(1, 2, value, 4, 5), features(0, 0, 0, 0, 0), None)


@pytest.mark.parametrize("name", ["int8", "topk"])
def test_a_difference_beyond_float32_is_divergence(name: str):
    with pytest.raises(DivergenceError, match="difference to the broadcast"):
        made(name, PLAIN).compress(features(3e38, 0, 0, 0, 0), features(-3e38, 0, 0, 0, 0), None)


@each_kind
def test_an_update_of_another_layout_is_refused(name: str):
    sent, _ = made(name, WHOLE).compress(random_model(WHOLE, 1), random_model(WHOLE, 2), None)
    with pytest.raises(PayloadError, match=r"an update holds .* where .* was agreed"):
        made(name, PLAIN).restore(sent, random_model(PLAIN, 2))


@pytest.mark.parametrize("places", [[1, 1], [3, 1], [1, 5], [2**32 - 1, 0]])
def test_places_that_no_client_sends_are_refused(places: list[int]):
    sent = {"places": np.array(places, np.uint32), "values": vector(1, 2)}
    with pytest.raises(PayloadError, match="must ascend below 5"):
        TopK(PLAIN, 0.4).restore(sent, features(0, 0, 0, 0, 0))


@pytest.mark.parametrize("name", ["int8", "topk"])
def test_a_difference_is_not_read_without_its_broadcast(name: str):
    compressor = made(name, PLAIN)
    sent, _ = compressor.compress(features(1, 2, 3, 4, 5), features(0, 0, 0, 0, 0), None)
    with pytest.raises(ValueError, match="needs the broadcast"):
        compressor.restore(sent, None)
    with pytest.raises(ValueError, match="zip"):
        list(read_updates(compressor, [encode(sent)]))


@pytest.mark.parametrize("name", ["int8", "topk"])
def test_each_update_is_added_to_the_broadcast_that_it_started_from(name: str):
    """Differences of 1 to broadcasts of 0 and of 10."""
    compressor, bases = made(name, PLAIN), [features(0, 0, 0, 0, 0), features(10, 10, 10, 10, 10)]
    updates = [compressor.compress({"features": base["features"] + 1}, base, None)[0] for base in bases]
    read = read_updates(compressor, [encode(sent) for sent in updates], [encode(base) for base in bases])
    assert [float(model["features"][0]) for model in read] == [1, 11]


def test_an_unknown_compression_is_refused():
    with pytest.raises(ValueError, match="no compression 'zip'; known: none, float16, int8, topk"):
        make_compressor("zip", PLAIN)
