"""Pydantic's verdicts in plain words: which key, what it must be, and what it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fedknow_ray.config.document import value_at
from fedknow_ray.config.model import DEFAULT_NAMES
from fedknow_ray.config.yaml import KeyPath, show
from fedknow_ray.errors import did_you_mean


def explain(
    error: ValidationError, model: type[BaseModel], tree: Any, *, also: tuple[str, ...] = ()
) -> Iterator[tuple[KeyPath, str]]:
    """Yield (key path, message) for each key that is wrong, in *tree* as it was validated by *model*.

    *also* are keys that stand beside the model's own at the top. The alternatives of a union become one message: "must
    be a whole number or 'all', got 'most'".
    """
    rules: dict[KeyPath, list[str]] = {}
    details = [(_key_path(detail["loc"], tree), detail) for detail in error.errors(include_url=False)]
    faulty = {path for path, _ in details}
    for path, detail in details:
        kind = detail["type"]
        is_entry_name = kind == "literal_error" and path[:-1] in DEFAULT_NAMES and path[-1] == "name"
        if kind == "extra_forbidden":
            keys = [*known_keys(model, path[:-1], tree), *(also if not path[1:] else ())]
            yield path, f"unknown key{did_you_mean(str(path[-1]), keys)}"
        elif kind == "missing":
            yield path, "is missing"
        elif kind in ("value_error", "assertion_error"):
            yield path, str(detail["ctx"]["error"])
        elif kind in ("union_tag_invalid", "union_tag_not_found") or is_entry_name:
            yield _unknown_name(detail, path, tree)
        else:
            rules.setdefault(path, []).append(_rule(detail))
    for path, told in rules.items():
        # Pydantic counts a list's sound entries only, and so finds it too short beside a faulty entry.
        if any(len(other) > len(path) and other[: len(path)] == path for other in faulty):
            continue
        yield path, f"{_either(told)}, got {show(value_at(tree, path))}{_mapping_hint(path, tree)}"


def known_keys(model: type[BaseModel], path: KeyPath, tree: Any) -> list[str]:
    """Return the keys that the mapping at *path* may hold."""
    found: type[BaseModel] | None = model
    for depth, part in enumerate(path, 1):
        if isinstance(part, str) and found is not None:
            field = found.model_fields.get(part)
            candidates = list(_models_in(field.annotation)) if field else []
            found = _by_name(candidates, value_at(tree, (*path[:depth], "name")))
    return sorted(found.model_fields) if found else []


def _key_path(loc: tuple[int | str, ...], tree: Any) -> KeyPath:
    """Return the key path of pydantic's location, without the tags of unions, which are no keys of the config."""
    path: KeyPath = ()
    for part in loc:
        value = value_at(tree, path)
        is_key = isinstance(value, dict) and (part in value or part != value.get("name"))
        if is_key or (isinstance(value, list) and isinstance(part, int)):
            path = (*path, part)
    return path


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the config models that a field's annotation holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _by_name(candidates: list[type[BaseModel]], name: Any) -> type[BaseModel] | None:
    named = [
        model for model in candidates if "name" in model.model_fields and model.model_fields["name"].default == name
    ]
    return next(iter([*named, *candidates]), None)


def _unknown_name(detail: ErrorDetails, path: KeyPath, tree: Any) -> tuple[KeyPath, str]:
    """Tell of a named entry whose name means nothing; pydantic reports it at the entry or at its name."""
    entry = path[:-1] if path[-1] == "name" else path
    context = detail["ctx"]
    known = re.findall("'([^']*)'", context.get("expected_tags") or context["expected"])
    name = value_at(tree, (*entry, "name"))
    return (*entry, "name"), f"unknown {entry[-1]} {show(name)}{did_you_mean(str(name), known)}"


def _either(rules: list[str]) -> str:
    first, *others = dict.fromkeys(rules)
    return " or ".join([first, *(rule.removeprefix("must be ") for rule in others)])


_RULES = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "path_type": "must be text (a path)",
    "none_required": "must be null",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping of keys",
    "model_type": "must be a mapping of keys",
    "model_attributes_type": "must be a mapping of keys",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "string_too_short": "must be text of {min_length} or more characters",
    "string_too_long": "must be text of {max_length} or fewer characters",
    "string_pattern_mismatch": "must be text like {pattern}",
    "too_short": "must have {min_length} or more entries",
    "too_long": "must have {max_length} or fewer entries",
}


def _rule(detail: ErrorDetails) -> str:
    rule = _RULES.get(detail["type"])
    if rule is None:
        # A type that a plugin's method uses and no config of ours: pydantic's words, less its manner of speaking.
        return detail["msg"].replace("Input should be", "must be").replace("input", "it")
    bounds = {key: f"{bound:g}" if isinstance(bound, float) else bound for key, bound in detail.get("ctx", {}).items()}
    return rule.format(**bounds)


def _mapping_hint(path: KeyPath, tree: Any) -> str:
    """Return how to write a named entry, where somebody wrote `optimizer: sgd`."""
    value = value_at(tree, path)
    wants_name = path and path[-1] in ("partition", "optimizer", "compression", "policy", "model")
    return f"; write {path[-1]}: {{name: {value}}}" if wants_name and isinstance(value, str) else ""
