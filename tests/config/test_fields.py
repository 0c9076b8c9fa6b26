from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from fedknow_ray.config import fields


@pytest.mark.parametrize(
    ("kind", "value", "held"),
    [
        (fields.Count, 1, 1),
        (fields.Positive, 1, 1.0),
        (fields.Fraction, 1, 1.0),
        (fields.Momentum, 0, 0.0),
        (fields.SizeBytes, "4 GiB", 2**32),
        (fields.RateBytesPerS, "1 MB/s", 1.0e6),
        (fields.DurationS, "20 ms", 0.02),
        (fields.Packing, "auto", "auto"),
        (fields.Packing, 4, 4),
        (fields.Cohort, [2, 0], (2, 0)),
    ],
)
def test_a_kind_of_value_holds_what_is_within_its_bounds(kind, value, held):
    assert TypeAdapter(kind).validate_python(value) == held


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (fields.Flag, 1),
        (fields.Flag, "true"),
        (fields.Count, 0),
        (fields.Count, True),
        (fields.Count, 2.0),
        (fields.Count, "2"),
        (fields.Seed, -1),
        (fields.Seed, 2**63),
        (fields.Name, ""),
        (fields.Positive, 0),
        (fields.Positive, float("inf")),
        (fields.NotNegative, float("nan")),
        (fields.Fraction, 1.01),
        (fields.Fraction, 0),
        (fields.Momentum, 1),
        (fields.SizeBytes, 0),
        (fields.SizeBytes, "-1 MB"),
        (fields.RateBytesPerS, 0),
        (fields.RateBytesPerS, True),
        (fields.DurationS, -0.1),
        (fields.Packing, 0),
        (fields.Packing, True),
        (fields.Packing, "many"),
        (fields.Cohort, []),
        (fields.Cohort, [1, 1]),
        (fields.Cohort, [-1]),
    ],
)
def test_a_kind_of_value_refuses_what_is_not(kind, value):
    with pytest.raises(ValidationError):
        TypeAdapter(kind).validate_python(value)


def test_a_folder_may_start_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert TypeAdapter(fields.Folder).validate_python("~/data") == Path("/home/ada/data")


def test_a_folder_of_a_user_who_does_not_exist_is_refused():
    with pytest.raises(ValidationError, match="names a home folder that cannot be found"):
        TypeAdapter(fields.Folder).validate_python("~no-such-user/data")
