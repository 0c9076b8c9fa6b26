"""The rules of docs/design.md, read off the source by ast: who imports whom, and who owns clocks and randomness."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import fedknow_ray

ROOT = Path(fedknow_ray.__file__).parent
PACKAGE = ROOT.name

#: A package imports only from smaller numbers. The ground modules of line 0 may use each other, as a package may.
LAYERS = {
    **dict.fromkeys(("errors", "units", "seeding", "registry", "plain_yaml"), 0),
    **dict.fromkeys(("config", "models", "transport", "simulation", "metrics", "results"), 1),
    **dict.fromkeys(("scenario", "methods"), 2),
    "federation": 3,
    "runtime": 4,
    "experiment": 5,
    "report": 6,
    # the command line and the root package call the report
    **dict.fromkeys(("cli", "__main__", "__init__"), 7),
}
GROUND = {name for name, layer in LAYERS.items() if layer == 0}
FACE = {name for name, layer in LAYERS.items() if layer == 7}

CLOCK_OWNERS = (
    "runtime/timing.py",
    "experiment/host_clock.py",
    "experiment/run.py",
    "experiment/manifest.py",
    "cli/",
)
NUMPY_TYPES = {"Generator", "PCG64", "BitGenerator", "SeedSequence"}
TORCH_GLOBAL = {
    *("manual_seed", "seed", "initial_seed", "get_rng_state", "set_rng_state", "random"),
    *("rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson"),
    *("rand_like", "randn_like", "randint_like"),
}
TORCH_DRAWN_IN_PLACE = {"uniform_", "normal_", "bernoulli_", "random_", "exponential_", "geometric_", "log_normal_"}


@cache
def sources() -> dict[str, ast.Module]:
    """Return the syntax tree of each module, by its path inside the package."""
    paths = sorted(ROOT.rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def module_of(path: str) -> str:
    return ".".join([PACKAGE, *path.removesuffix(".py").removesuffix("__init__").rstrip("/").split("/")]).rstrip(".")


@cache
def modules() -> frozenset[str]:
    return frozenset(map(module_of, sources()))


def imported(node: ast.AST) -> Iterator[str]:
    """Yield the full names that an import statement names: modules, or what is taken from them."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports(tree: ast.AST, *, types_too: bool = True) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if types_too or not is_type_checking(node):
            yield from imported(node)
            yield from imports(node, types_too=types_too)


def module_imports(path: str, *, types_too: bool = True) -> set[str]:
    """Return the modules of ours that a module imports, wherever in it the import stands."""
    ours = {name for name in imports(sources()[path], types_too=types_too) if name.split(".")[0] == PACKAGE}
    return {name if name in modules() else name.rpartition(".")[0] for name in ours}


def part_of(module: str) -> str:
    """Return the package (or ground module) that a module belongs to."""
    return [*module.split("."), "__init__"][1]


def call_names(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Yield every dotted name in a module with the node around it, first part as imported: np.random.x as numpy..."""
    full = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            full.update(
                {a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0] for a in node.names}
            )
        elif isinstance(node, ast.ImportFrom):
            full.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            first, _, rest = ast.unparse(node).partition(".")
            name = full.get(first, first)
            yield (f"{name}.{rest}" if rest else name), calls.get(id(node), node)


def test_every_package_has_its_layer():
    """A new package must be given a line in docs/design.md, and here."""
    assert {part_of(module) for module in modules()} <= set(LAYERS)


@pytest.mark.parametrize("path", sorted(sources()))
def test_imports_only_from_layers_below(path: str):
    own = part_of(module_of(path))
    for target in map(part_of, module_imports(path)):
        together = target == own or {target, own} <= GROUND or {target, own} <= FACE
        assert together or LAYERS[target] < LAYERS[own], f"{path} (layer {LAYERS[own]}) imports {target}"


def test_no_module_imports_itself_through_others():
    """Imports in functions count; those for the type checker alone are never executed and do not."""
    graph = {module_of(path): module_imports(path, types_too=False) for path in sources()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def test_imports_are_absolute():
    """One way to name a module, which is also what the tests here can read."""
    relative = [
        path
        for path, tree in sources().items()
        if any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))
    ]
    assert relative == []


def test_only_the_runtime_imports_ray():
    users = {path for path, tree in sources().items() if any(name.split(".")[0] == "ray" for name in imports(tree))}
    assert users
    assert all(path.startswith("runtime/") for path in users), users


def test_only_its_owners_read_the_wall_clock():
    """Virtual time follows from work, so a clock elsewhere is a mistake."""
    readers = {
        path
        for path, tree in sources().items()
        for name, _ in call_names(tree)
        if name.split(".")[0] == "time" or name.endswith((".now", ".utcnow", ".today"))
    }
    assert [path for path in sorted(readers) if not path.startswith(CLOCK_OWNERS)] == []


def unseeded(name: str, node: ast.AST) -> bool:
    """Return whether a name draws from, or sets, a generator that everybody shares."""
    keywords = {keyword.arg for keyword in node.keywords} if isinstance(node, ast.Call) else set()
    match name.split("."):
        case ["random", *_]:
            return True
        case ["numpy", "random", "default_rng"]:
            return not (isinstance(node, ast.Call) and node.args)
        case ["numpy", "random", function, *_]:
            return function not in NUMPY_TYPES
        case ["torch", function, *_] if function in TORCH_GLOBAL:
            return "generator" not in keywords
        case [*_, method] if method in TORCH_DRAWN_IN_PLACE:
            return "generator" not in keywords
    return False


def test_only_the_seeding_module_touches_global_random_state():
    found = {
        f"{path}: {name}" for path, tree in sources().items() for name, node in call_names(tree) if unseeded(name, node)
    }
    assert {entry for entry in found if not entry.startswith("seeding.py")} == set()
    assert "seeding.py: torch.manual_seed" in found, "the test itself sees nothing"


@pytest.mark.parametrize(
    ("source", "caught"),
    [
        ("import numpy as np\nnp.random.seed(1)", True),
        ("import numpy as np\nnp.random.default_rng()", True),
        ("import numpy as np\nx: np.random.Generator\nnp.random.default_rng(3)", False),
        ("from random import choice\nchoice([1])", True),
        ("import torch\ntorch.rand(3)", True),
        ("from torch import randn\nrandn(3)", True),
        ("import torch\ntorch.rand(3, generator=g)", False),
        ("import torch\ntorch.zeros(3).uniform_(0, 1)", True),
    ],
)
def test_the_random_state_check_catches(source: str, caught: bool):
    assert any(unseeded(name, node) for name, node in call_names(ast.parse(source))) is caught


#: Libraries whose way of reading runs whatever code the bytes name.
RUNS_CODE = {"pickle", "_pickle", "cPickle", "pickletools", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


def may_run_code(name: str, node: ast.AST) -> bool:
    """Return whether a name reads bytes in a way in which they can say what is run."""
    keywords = {one.arg: ast.unparse(one.value) for one in node.keywords} if isinstance(node, ast.Call) else {}
    match name.split("."):
        case [*_, library, _] if library in RUNS_CODE:
            return True
        case ["eval" | "exec"] | ["builtins", "eval" | "exec"] | ["torch", "load" | "jit"] | ["torch", "hub", *_]:
            return True
        case ["numpy", "load"] | ["numpy", "lib", "npyio", _]:
            return keywords.get("allow_pickle", "False") != "False"
        case ["yaml", "load"]:
            # a subclass of SafeLoader, see tests/test_plain_yaml.py
            return keywords.get("Loader") != "WithoutAliases"
        case ["yaml", *_, "load" | "load_all" | "unsafe_load" | "unsafe_load_all" | "full_load" | "full_load_all"]:
            return True
        case ["yaml", *_, "Loader" | "UnsafeLoader" | "FullLoader" | "CLoader" | "CFullLoader" | "CUnsafeLoader"]:
            return True
    return name.endswith((".read_pickle", ".PyExtensionType"))


def what_may_run_code(tree: ast.AST) -> set[str]:
    libraries = {name for name in imports(tree) if RUNS_CODE & {*name.split(".")}}
    return libraries | {name for name, node in call_names(tree) if may_run_code(name, node)}


def test_nothing_that_is_read_can_run_code():
    """No file, update or state says what is imported or called: no pickle and its kin, however they are reached."""
    found = {path: what_may_run_code(tree) for path, tree in sources().items()}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("source", "caught"),
    [
        ("import pickle", True),
        ("def f():\n    from pickle import loads", True),
        ("import pickle as plain\nplain.loads(b'')", True),
        ("from ray import cloudpickle", True),
        ("import ray\nray.cloudpickle.loads(b'')", True),
        ("import marshal", True),
        ("import shelve", True),
        ("import dill", True),
        ("import torch\ntorch.load('x', weights_only=True)", True),
        ("from torch import load\nload('x')", True),
        ("import numpy as np\nnp.load('x', allow_pickle=True)", True),
        ("import numpy as np\nnp.load('x', allow_pickle=flag)", True),
        ("import numpy as np\nnp.load('x')", False),
        ("import numpy as np\nnp.load('x', allow_pickle=False)", False),
        ("import yaml\nyaml.load('x', Loader=yaml.SafeLoader)", True),
        ("import yaml\nyaml.safe_load('x')", False),
        ("import yaml\nclass Own(yaml.SafeLoader): ...", False),
        ("import yaml\nclass Own(yaml.FullLoader): ...", True),
        ("eval('1')", True),
        ("exec('1')", True),
        ("network.eval()", False),
        ("import json\njson.loads('1')", False),
    ],
)
def test_the_check_of_what_runs_code_catches(source: str, caught: bool):
    assert bool(what_may_run_code(ast.parse(source))) is caught


def in_fresh_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_the_package_loads_no_heavy_library():
    code = (
        "import sys, fedknow_ray; print(*sorted({'ray', 'torch', 'torchvision', 'numpy', 'pyarrow'} & {*sys.modules}))"
    )
    assert in_fresh_python(code) == ""


def test_importing_the_package_takes_less_than_150_ms():
    """Of the processor, best of five: the limit is the package's, not that of whoever else uses the machine."""
    code = "import time; s = time.process_time(); import fedknow_ray; print(time.process_time() - s)"
    assert min(float(in_fresh_python(code)) for _ in range(5)) < 0.150


def test_listing_names_imports_neither_torch_nor_ray():
    code = (
        "import sys; from fedknow_ray.experiment.catalogue import KINDS; [names() for names in KINDS.values()];"
        "print(*sorted({'ray', 'torch', 'torchvision'} & {*sys.modules}))"
    )
    assert in_fresh_python(code) == ""
