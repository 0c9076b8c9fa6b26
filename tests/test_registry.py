"""Registries: names without imports, entries by place, plugins by entry point, unknown names."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from fedknow_ray import registry as registry_module
from fedknow_ray.errors import UnknownNameError
from fedknow_ray.registry import Registry


@pytest.fixture
def with_plugin(monkeypatch: pytest.MonkeyPatch) -> Registry[object]:
    point = EntryPoint("quince", "math:pi", "test.fruit")
    monkeypatch.setattr(registry_module, "entry_points", lambda group: [point] if group == "test.fruit" else [])
    return Registry("fruit", "test.fruit")


def test_names_are_sorted():
    registry: Registry[int] = Registry("number")
    registry.register("two", 2)
    registry.register("one", 1)
    assert registry.names() == ["one", "two"]


def test_an_object_comes_back_as_it_is():
    registry: Registry[list[int]] = Registry("list")
    entry = [1]
    registry.register("one", entry)
    assert registry.get("one") is entry


def test_a_place_is_imported_when_it_is_first_asked_for():
    registry: Registry[object] = Registry("constant")
    registry.register("pi", "math:pi")
    assert registry.get("pi") == pytest.approx(3.14159, abs=1e-5)


def test_names_import_nothing():
    registry: Registry[object] = Registry("broken")
    registry.register("broken", "no.such.module:x")
    assert registry.names() == ["broken"]
    assert "broken" in registry


def test_a_name_is_given_once():
    registry: Registry[int] = Registry("number")
    registry.register("one", 1)
    with pytest.raises(ValueError, match="number 'one' is registered already"):
        registry.register("one", 2)


def test_an_unknown_name_says_what_it_is_and_what_is_near():
    registry: Registry[int] = Registry("method")
    registry.register("fedavg", 1)
    registry.register("fedknow", 2)
    with pytest.raises(UnknownNameError, match="unknown method 'fedknw'; did you mean 'fedknow'\\?"):
        registry.get("fedknw")


def test_a_plugin_is_listed_and_loaded(with_plugin: Registry[object]):
    assert with_plugin.names() == ["quince"]
    assert with_plugin.get("quince") == pytest.approx(3.14159, abs=1e-5)


def test_a_plugin_does_not_replace_a_built_in(with_plugin: Registry[object]):
    with_plugin.register("quince", 7)
    assert with_plugin.get("quince") == 7


def test_the_methods_are_named_without_torch():
    code = (
        "import sys; from fedknow_ray.methods.catalogue import METHODS;print(*METHODS.names(), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *names, torch_is_there = done.stdout.split()
    assert {"fedavg", "fedknow", "local", "fedprox", "ewc", "mas", "lwf", "ags_cl"} <= set(names)
    assert torch_is_there == "False"
