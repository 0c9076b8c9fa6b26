"""The documents name things that exist: files, modules, config keys, commands, options, defaults."""

import inspect
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
from test_architecture import LAYERS

from fedknow_ray.cli.app import app
from fedknow_ray.config.loading import load_config
from fedknow_ray.experiment.catalogue import CATALOGUE, KINDS
from fedknow_ray.federation.executor import Executor
from fedknow_ray.methods.catalogue import METHODS
from fedknow_ray.methods.fedknow.settings import FedKnowSettings
from fedknow_ray.methods.learner import Learner
from fedknow_ray.methods.method import Method
from fedknow_ray.results.schema import TABLE_KEY, VERSION_KEY

ROOT = Path(__file__).parents[1]
DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path
    for path in (*sorted(ROOT.glob("*.md")), ROOT / "cluster" / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}
PACKAGES = {path.name for path in (ROOT / "fedknow_ray").iterdir() if (path / "__init__.py").exists()}
FILE_ENDINGS = {"py", "yaml", "json", "parquet", "html", "md", "toml"}
#: Dotted names of ours that are no modules: entry-point groups, keys of the tables' metadata.
LABELS = {"fedknow_ray.methods", "fedknow_ray.models", "fedknow_ray.datasets"}
LABELS |= {key.decode() for key in (TABLE_KEY, VERSION_KEY)}

each_document = pytest.mark.parametrize("name", DOCUMENTS)


def text_of(name: str) -> str:
    return DOCUMENTS[name].read_text(encoding="utf-8")


def prose_of(name: str) -> str:
    """Return the document without its code blocks."""
    return re.sub(r"^( *)```.*?^\1```", "", text_of(name), flags=re.MULTILINE | re.DOTALL)


def blocks_of(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(name), flags=re.MULTILINE | re.DOTALL)


def code_in(name: str) -> set[str]:
    """Return what stands in single backticks."""
    return set(re.findall(r"`([^`\n]+)`", prose_of(name)))


def anchors_of(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_document
def test_every_link_leads_somewhere(name: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose_of(name)):
        if link.startswith("https://"):
            continue
        place, _, anchor = link.partition("#")
        target = DOCUMENTS[name].parent / place if place else DOCUMENTS[name]
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


@each_document
def test_every_file_that_is_named_exists(name: str) -> None:
    for code in code_in(name):
        if re.fullmatch(r"(fedknow_ray|tests|docs|configs|benchmarks|cluster)/[\w./-]+", code):
            assert (ROOT / code).exists(), code


def resolve(dotted: str) -> None:
    """Find a name inside the package: modules as far as they go, then attributes."""
    parts = ["fedknow_ray", *dotted.removeprefix("fedknow_ray.").split(".")]
    depth = max(n for n in range(1, len(parts) + 1) if exists(".".join(parts[:n])))
    thing = import_module(".".join(parts[:depth]))
    for attribute in parts[depth:]:
        fields = getattr(thing, "__dataclass_fields__", {})
        assert hasattr(thing, attribute) or attribute in fields, dotted
        thing = getattr(thing, attribute, None)


def exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def dotted_names(name: str) -> Iterator[str]:
    for code in code_in(name):
        if re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", code) and code.rpartition(".")[2] not in FILE_ENDINGS:
            yield code


@cache
def config_keys() -> frozenset[str]:
    """Return every key of a resolved config, with dots."""
    plain = load_config(ROOT / "configs" / "cifar100.yaml", catalogue=CATALOGUE).to_dict()

    def walk(value: object, prefix: str) -> Iterator[str]:
        yield prefix
        for key, inner in value.items() if isinstance(value, dict) else ():
            yield from walk(inner, f"{prefix}.{key}")

    return frozenset(key for section, value in plain.items() for key in walk(value, section))


@each_document
def test_every_dotted_name_is_a_config_key_or_a_name_in_the_package(name: str) -> None:
    for dotted in dotted_names(name):
        first = dotted.split(".")[0]
        if dotted in config_keys() or dotted in LABELS:
            continue
        if first in {"fedknow_ray", "seeding", "registry"} | PACKAGES:
            resolve(dotted)
        else:
            assert first not in {"training", "model", "method", "network", "placement", "policy"}, dotted


def commands() -> list[str]:
    pages = "\n".join(text_of(name) for name in DOCUMENTS)
    pages += "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "configs").glob("*.yaml"))
    pages = re.sub(r"\s*\\\n#?\s*", " ", pages)  # a command goes on after a backslash
    lines = re.findall(r"^(?:#\s+)?(fedknow-ray .+)$", pages, flags=re.MULTILINE)
    # what follows two spaces is a remark
    return sorted({re.split(r"\s{2,}", line)[0] for line in lines})


@pytest.mark.parametrize("command", commands())
def test_every_command_is_one_that_the_program_knows(command: str) -> None:
    assert isinstance(app, click.Group)
    _, name, *arguments = shlex.split(command)
    # a copy, since the parser empties the list
    app.commands[name].make_context(name, list(arguments))
    if name == "list":
        assert arguments[0] in KINDS
    for path in (argument for argument in arguments if argument.startswith("configs/")):
        assert (ROOT / path).exists(), path


def test_every_make_target_that_the_documents_name_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, flags=re.MULTILINE))
    named = {target for name in DOCUMENTS for target in re.findall(r"\bmake ([a-z-]+)\b`", text_of(name))}
    named |= set(re.findall(r"^make ([a-z-]+)", text_of("README.md"), flags=re.MULTILINE))
    assert {"quickstart", "test"} <= named <= targets


def test_the_readmes_config_is_one(tmp_path: Path) -> None:
    (config,) = blocks_of("README.md", "yaml")
    (tmp_path / "readme.yaml").write_text(config, encoding="utf-8")
    assert load_config(tmp_path / "readme.yaml", catalogue=CATALOGUE).devices[-1] == "raspberry-pi-4-4gb"


def test_the_layers_of_the_design_are_those_that_are_enforced() -> None:
    block = re.search(r"^```\n(0  .*?)^```$", text_of("docs/design.md"), flags=re.MULTILINE | re.DOTALL)
    assert block is not None
    drawn = {part: int(number) for number, *parts in map(str.split, block[1].splitlines()) for part in parts}
    assert drawn == LAYERS


@pytest.mark.parametrize("kind", [Method, Learner, Executor], ids=lambda kind: kind.__name__)
def test_the_excerpts_of_the_design_have_the_signatures_of_the_code(kind: type) -> None:
    (block,) = (block for block in blocks_of("docs/design.md", "python") if "class Executor" in block)
    part = block.split(f"class {kind.__name__}")[1].split("\nclass ")[0]
    excerpts = re.findall(r"def (\w+)(\(.*\) -> .*)$", part, flags=re.MULTILINE)
    assert excerpts
    for name, signature in excerpts:
        assert str(inspect.signature(getattr(kind, name))).replace("'", "") == signature.replace("'", ""), name


def test_the_methods_page_has_every_method_and_default() -> None:
    page = text_of("docs/methods.md")
    for name in METHODS.names():
        assert f"## `{name}`" in page
        for key, field in METHODS.get(name).hyperparameters.model_fields.items():
            default = f"`{field.default}`" if isinstance(field.default, str) else str(field.default)
            assert f"| `{key}` | {default} |" in page


def test_the_methods_page_has_what_each_variant_of_fedknow_fills_in() -> None:
    page = text_of("docs/methods.md")
    variants = [FedKnowSettings(variant=variant).model_dump() for variant in ("tuned", "paper", "authors_code")]
    for key in FedKnowSettings.model_fields:
        values = [
            f"`{settings[key]}`" if isinstance(settings[key], str) else str(settings[key]) for settings in variants
        ]
        assert f"| `{key}` | {' | '.join(values)} |" in page


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = text_of("docs/decisions/0001-dependencies.md")
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = [re.split(r"[<>=!~\[ ]", requirement)[0] for requirement in wanted]
    assert [name for name in names if name not in page] == []
