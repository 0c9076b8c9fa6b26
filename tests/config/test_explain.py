from typing import Annotated, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedknow_ray.config.explain import explain, known_keys
from fedknow_ray.config.model import RunConfig


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    depth: int = 1


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    count: Annotated[int, Field(ge=2, le=5)] = 2
    rate: Annotated[float, Field(gt=0, lt=1)] = 0.5
    step: Annotated[int, Field(multiple_of=4)] = 4
    flag: bool = True
    word: Annotated[str, Field(min_length=2, max_length=4, pattern="[a-z]*")] = "ab"
    mode: Literal["fast", "slow"] = "fast"
    either: int | Literal["all"] | None = None
    items: Annotated[tuple[int, ...], Field(min_length=1, max_length=2)] = (1,)
    inner: Inner = Inner()
    needed: int
    serial: UUID = UUID(int=0)


def told(tree):
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"needed": 1} | tree, strict=False)
    return {".".join(map(str, path)): message for path, message in explain(caught.value, Outer, {"needed": 1} | tree)}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"count": 1}, "must be at least 2, got 1"),
        ({"count": 6}, "must be at most 5, got 6"),
        ({"count": "x"}, "must be a whole number, got 'x'"),
        ({"count": 2.5}, "must be a whole number, got 2.5"),
        ({"rate": 0}, "must be greater than 0, got 0"),
        ({"rate": 1}, "must be less than 1, got 1"),
        ({"rate": None}, "must be a number, got null"),
        ({"step": 6}, "must be a multiple of 4, got 6"),
        ({"flag": "maybe"}, "must be true or false, got 'maybe'"),
        ({"word": "a"}, "must be text of 2 or more characters, got 'a'"),
        ({"word": "abcde"}, "must be text of 4 or fewer characters, got 'abcde'"),
        ({"word": 3}, "must be text, got 3"),
        ({"mode": "fst"}, "must be 'fast' or 'slow', got 'fst'"),
        ({"either": "most"}, "must be a whole number or 'all', got 'most'"),
        ({"items": []}, "must have 1 or more entries, got a list"),
        ({"items": 3}, "must be a list, got 3"),
        ({"inner": 3}, "must be a mapping of keys, got 3"),
    ],
)
def test_pydantics_verdict_is_told_in_plain_words(tree, message):
    assert told(tree) == {next(iter(tree)): message}


def test_a_verdict_without_words_of_ours_is_still_told_with_its_value():
    (message,) = told({"serial": "x"}).values()
    assert message.startswith("must be a valid UUID")
    assert message.endswith(", got 'x'")


def test_nested_keys_are_told_with_their_path_and_the_nearest_name():
    assert told({"inner": {"dept": 3}, "items": [1, "x"]}) == {
        "inner.dept": "unknown key; did you mean 'depth'?",
        "items.1": "must be a whole number, got 'x'",
    }


def test_a_missing_key_is_told():
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({})
    assert list(explain(caught.value, Outer, {})) == [(("needed",), "is missing")]


def test_a_rule_over_several_keys_is_told_as_its_author_wrote_it():
    class Pair(BaseModel):
        low: int = 3

        @model_validator(mode="after")
        def _ordered(self):
            raise ValueError("low must lie below high")

    with pytest.raises(ValidationError) as caught:
        Pair.model_validate({"low": 4})
    assert list(explain(caught.value, Pair, {"low": 4})) == [((), "low must lie below high")]


@pytest.mark.parametrize(
    ("path", "tree", "keys"),
    [
        (
            ("policy",),
            {"policy": {"name": "fedasync"}},
            ["concurrency", "mixing", "name", "selection", "staleness_exponent"],
        ),
        (
            ("training", "optimizer"),
            {"training": {"optimizer": {"name": "adam"}}},
            ["lr", "lr_decay", "name", "weight_decay"],
        ),
        (("scenario", "partition"), {"scenario": {"partition": {"name": "iid"}}}, ["name"]),
        (("seed", "x"), {"seed": 1}, []),
    ],
)
def test_the_keys_that_a_mapping_may_hold_depend_on_its_name(path, tree, keys):
    assert known_keys(RunConfig, path, tree) == keys
