"""10,000 mutated payloads at the server's door: refused, or a model like any other; never an exception."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from fedknow_ray.federation.door import Door, norm_ratio
from fedknow_ray.transport.compression import Compressor, make_compressor
from fedknow_ray.transport.payload import DTYPES, MAGIC, decode, encode
from fedknow_ray.transport.update_layout import UpdateLayout

CASES, RATIO = 10_000, 100.0
LAYOUT = UpdateLayout((30, 7, 60), statistics=4, head=(2, 5))
KINDS: dict[str, dict[str, Any]] = {"none": {}, "float16": {}, "int8": {}, "topk": {"fraction": 0.1}}
NUMBERS = (0, 1, -1, 2**31, 2**32 - 1, 2**60, 2**64, 10**400, True, None, "4", 4.0, [4], float("nan"))
NAMES = ("features", "head", "statistics", "weights", "", "\ud800", "\0", "x" * 999, 5, None, [], {})
TYPES = (*DTYPES, "float64", "object", "O", "<f4", "float32,float32", "", "\0", 3, None, ["int8"])
#: float32: NaN, a signalling NaN, infinities, the largest, the smallest above 0.
FLOATS = tuple(
    int(bits, 16).to_bytes(4, "little")
    for bits in ("7fc00000", "7f800001", "7f800000", "ff800000", "7f7fffff", "00000001", "80000000")
)


def models(seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(seed)
    base = LAYOUT.join(rng.normal(size=LAYOUT.N).astype(np.float32), rng.random(4).astype(np.float32))
    return base, {name: values + np.float32(0.1) for name, values in base.items()}


BASE, TRAINED = models(1)
BROADCAST = encode(BASE)


def honest(compressor: Compressor | None) -> bytes:
    return bytes(encode(TRAINED if compressor is None else compressor.compress(TRAINED, BASE, None)[0]))


def _flip(rng: random.Random, payload: bytearray) -> bytearray:
    for _ in range(rng.choice((1, 1, 3, 20))):
        if payload:
            payload[rng.randrange(len(payload))] = rng.randrange(256)
    return payload


def _float(rng: random.Random, payload: bytearray) -> bytearray:
    place = rng.randrange(max(1, len(payload) // 4)) * 4
    payload[place : place + 4] = rng.choice(FLOATS)
    return payload


def _cut(rng: random.Random, payload: bytearray) -> bytearray:
    start = rng.randrange(len(payload) + 1)
    del payload[start : rng.choice((start + 1, start + 64, len(payload)))]
    return payload


def _put_in(rng: random.Random, payload: bytearray) -> bytearray:
    place = rng.randrange(len(payload) + 1)
    payload[place:place] = rng.randbytes(rng.choice((1, 4, 64, 1000)))
    return payload


def _announce(rng: random.Random, payload: bytearray) -> bytearray:
    payload[4:8] = rng.choice((0, 1, 2, len(payload), 2**16, 2**16 + 1, 2**31, 2**32 - 1)).to_bytes(4, "little")
    return payload


def _other_header(rng: random.Random, payload: bytearray) -> bytearray:
    """Change the header as one who knows the format would; the arrays stay where they were."""
    end = 8 + int.from_bytes(payload[4:8], "little")
    try:
        entries = json.loads(payload[8:end])
        entry = rng.choice(entries)
        part = rng.randrange(3)
        entry[part] = rng.choice((NAMES, TYPES, ([rng.choice(NUMBERS) for _ in range(rng.randrange(4))],))[part])
    except (ValueError, TypeError, LookupError):
        entries = rng.choice(([], {}, [[]], 7, "features", [["features", "float32", [4]]] * 2))
    if isinstance(entries, list) and rng.random() < 0.3:
        entries = rng.choice((entries * 2, entries[:-1], entries[::-1]))
    text = json.dumps(entries).encode()
    return bytearray(MAGIC + len(text).to_bytes(4, "little") + text) + payload[end:]


CHANGES: tuple[Callable[[random.Random, bytearray], bytearray], ...] = (
    *(_flip, _flip, _float, _float, _float, _cut, _put_in, _announce, _other_header, _other_header),
)


def test_ten_thousand_mutated_payloads_are_refused_or_stand_for_a_model() -> None:
    compressors = [make_compressor(name, LAYOUT, **settings) for name, settings in KINDS.items()]
    doors = [Door.of(BROADCAST, compressor, RATIO) for compressor in compressors]
    sent = [honest(compressor) for compressor in compressors]
    for door, payload in zip(doors, sent, strict=True):
        assert door.refusal(np.frombuffer(payload, np.uint8), BROADCAST) is None
    answers: Counter[str] = Counter()
    for seed in range(CASES):
        rng = random.Random(seed)
        door, payload = doors[seed % len(doors)], bytearray(rng.choice((sent[seed % len(sent)], rng.choice(sent))))
        for _ in range(rng.choice((1, 1, 2, 5))):
            payload = rng.choice(CHANGES)(rng, payload)
        came = np.frombuffer(bytes(payload), np.uint8)
        refusal = door.refusal(came, BROADCAST)
        answers["in order" if refusal is None else refusal.kind] += 1
        if refusal is None:
            arrays = decode(came)
            model = arrays if door.compressor is None else door.compressor.restore(arrays, BASE)
            assert {name: array.shape for name, array in model.items()} == {n: a.shape for n, a in BASE.items()}
            assert all(np.isfinite(array).all() for array in model.values())
            assert norm_ratio(model, BASE) <= RATIO
        else:
            refusal.message.encode()
    # each kind of answer comes up, or the mutations miss something
    assert min(answers[kind] for kind in ("in order", "garbage", "wrong_shape", "not_finite", "norm")) > 50, answers
