"""YAML of strangers: plain values or one kind of error, whatever the text."""

from __future__ import annotations

from pathlib import Path

import pytest
from yaml import YAMLError

from fedknow_ray.plain_yaml import plain_yaml

BOMB = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}]\n" for old, new in zip("abcdef", "bcdefg", strict=True)
)


def test_plain_values_are_read_as_pyyaml_reads_them() -> None:
    assert plain_yaml("a: [1, 2.5, yes, null, text]") == {"a": [1, 2.5, True, None, "text"]}


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        "a: *b",
        "2001-99-99",
        "9" * 5000,
        "[" * 5000,
        "!!python/object/apply:os.system [id]",
        "a: \x00",
        "{a",
        "? [a]\n: b",
    ],
    ids=lambda text: text[:12],
)
def test_everything_else_is_one_kind_of_error(text: str) -> None:
    with pytest.raises(YAMLError):
        plain_yaml(text)


def test_a_tag_runs_nothing(tmp_path: Path) -> None:
    with pytest.raises(YAMLError):
        plain_yaml(f"!!python/object/apply:os.mkdir [{tmp_path / 'made'}]")
    assert not (tmp_path / "made").exists()
