"""The grid: which cases the options mean, what they are called, and every fault of them at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small import write_config

from fedknow_ray.config.yaml import parse_yaml
from fedknow_ray.errors import ConfigError
from fedknow_ray.experiment.grid import RunId, first_seed, flow_text, read_configs, read_grid, run_folder
from fedknow_ray.results.comparison import Case

CONFIG = Path("small.yaml")


def labels(methods: list[str], vary: list[str]) -> list[str]:
    return [case.label for case in read_grid(CONFIG, methods, vary).cases()]


def faults(methods: list[str], vary: list[str] | None = None, sets: list[str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_grid(CONFIG, methods, vary or [], sets or [])
    return [str(fault) for fault in caught.value.faults]


def with_runs(case: Case, *seeds: int) -> Case:
    return case.model_copy(update={"runs": {seed: run_folder(case.label, seed) for seed in seeds}})


def test_without_varied_keys_a_case_is_a_method():
    assert labels(["fedavg", "local"], []) == ["fedavg", "local"]


def test_a_method_key_goes_to_the_methods_that_have_it():
    expected = ["fedavg", "fedknow, margin=0", "fedknow, margin=0.5"]
    assert labels(["fedavg", "fedknow"], ["method.margin=0,0.5"]) == expected


def test_other_keys_go_to_all_and_several_make_the_product():
    assert labels(["fedavg", "fedknow"], ["training.local_epochs=1,2", "method.margin=0,0.5"]) == [
        "fedavg, local_epochs=1",
        "fedavg, local_epochs=2",
        "fedknow, local_epochs=1, margin=0",
        "fedknow, local_epochs=1, margin=0.5",
        "fedknow, local_epochs=2, margin=0",
        "fedknow, local_epochs=2, margin=0.5",
    ]


def test_values_are_read_as_a_yaml_list():
    [first, second] = read_grid(CONFIG, ["fedavg"], ["training.optimizer={name: adam},{name: sgd, lr: 0.05}"]).cases()
    assert first.settings == {"training.optimizer": {"name": "adam"}}
    assert second.label == "fedavg, optimizer={name: sgd, lr: 0.05}"
    assert second.overrides == ("method.name=fedavg", "training.optimizer={name: sgd, lr: 0.05}")


def test_a_key_is_called_by_its_last_part_unless_another_ends_alike():
    assert labels(["fedavg"], ["training.optimizer.lr=0.1", "scenario.partition.name=iid", "model.name=cnn6"]) == [
        "fedavg, lr=0.1, partition.name=iid, model.name=cnn6"
    ]


def labels_of_each(methods: list[str], each: list[str], vary: list[str] | None = None) -> list[str]:
    return [case.label for case in read_grid(CONFIG, methods, vary or [], each=each).cases()]


def test_each_value_is_set_alone_beside_a_case_without_it():
    assert labels_of_each(["fedknow"], ["method.margin=0.5", "method.temperature=1.0,4.0"]) == [
        "fedknow",
        "fedknow, margin=0.5",
        "fedknow, temperature=1.0",
        "fedknow, temperature=4.0",
    ]


def test_what_is_set_alone_goes_with_every_combination_and_to_the_methods_that_have_it():
    assert labels_of_each(["fedavg", "fedknow"], ["method.margin=0.5"], ["training.local_epochs=1,2"]) == [
        "fedavg, local_epochs=1",
        "fedavg, local_epochs=2",
        "fedknow, local_epochs=1",
        "fedknow, local_epochs=1, margin=0.5",
        "fedknow, local_epochs=2",
        "fedknow, local_epochs=2, margin=0.5",
    ]


def test_a_key_is_not_both_varied_and_set_alone():
    with pytest.raises(ConfigError, match="is varied twice") as caught:
        read_grid(CONFIG, ["fedknow"], ["method.margin=0"], each=["method.margin=1"])
    assert caught.value.faults[0].where == "--each method.margin=1"


def test_the_fault_of_a_value_set_alone_names_the_option(tmp_path: Path):
    grid = read_grid(write_config(tmp_path), ["fedknow"], each=["method.margin=-1"])
    with pytest.raises(ConfigError) as caught:
        first_seed(grid)
    assert caught.value.faults[0].where == "--each method.margin=-1"


def test_a_set_is_in_every_case_and_before_what_is_varied():
    grid = read_grid(CONFIG, ["fedavg", "fedknow"], ["method.margin=0"], ["training.threads=2", "method.labels=hard"])
    assert [case.overrides for case in grid.cases()] == [
        ("method.name=fedavg", "training.threads=2"),
        ("method.name=fedknow", "training.threads=2", "method.labels=hard", "method.margin=0"),
    ]


def test_setting_the_seed_moves_the_first_one(tmp_path: Path):
    config = write_config(tmp_path)
    assert first_seed(read_grid(config, ["fedavg"])) == 1
    moved = read_grid(config, ["fedavg"], [], ["seed=11"])
    assert first_seed(moved) == 11
    assert moved.cases()[0].overrides == ("method.name=fedavg",)


def test_all_faults_of_the_options_are_told_at_once():
    assert faults(["fedavg", "fedknw", "fedavg"], ["method.marginn=1", "lr", "training.threads=1,1"], ["seed.x"]) == [
        "--methods fedavg,fedknw,fedavg: fedavg is named twice; leave one out",
        "--methods fedavg,fedknw,fedavg: unknown method 'fedknw'; did you mean 'fedknow'?",
        "--vary method.marginn=1: method.marginn: no method of fedavg has this key; known: method.own_model",
        "--vary lr: lr: must be KEY=V1,V2,..., for example method.margin=0,0.5",
        "--vary training.threads=1,1: training.threads: takes the value 1 twice; leave one out",
    ]


@pytest.mark.parametrize(
    ("vary", "told"),
    [
        (["seed=1,2"], "belongs to another option: --seeds"),
        (["method.name=fedavg"], "belongs to another option: --methods"),
        (["method={name: fedavg}"], "belongs to another option: --methods"),
        (["method.marg=0"], "no method of fedknow has this key; did you mean 'method.margin'?"),
        (["method.margin="], "has no value to take"),
        (["method.margin=0", "method.margin=1"], "is varied twice"),
        (["method.margin=[0"], "not valid YAML"),
    ],
)
def test_a_key_that_cannot_be_varied_is_refused(vary: list[str], told: str):
    assert told in "".join(faults(["fedknow"], vary))


@pytest.mark.parametrize(("method", "known"), [("fedavg", "known: method.own_model"), ("local", "none is known")])
def test_a_set_that_no_method_has_is_refused(method: str, known: str):
    assert faults([method], sets=["method.margin=0"]) == [
        f"--set method.margin=0: method.margin: no method of {method} has this key; {known}"
    ]


def test_the_own_model_is_set_for_the_methods_that_have_the_key():
    grid = read_grid(CONFIG, ["local", "fedavg"], ["method.own_model=last_visit,final"])
    assert [case.overrides for case in grid.cases()] == [
        ("method.name=local",),
        ("method.name=fedavg", "method.own_model=last_visit"),
        ("method.name=fedavg", "method.own_model=final"),
    ]


def test_a_config_is_resolved_for_each_case_and_seed(tmp_path: Path):
    grid = read_grid(write_config(tmp_path), ["fedavg", "fedknow"])
    cases = [with_runs(case, 3, 4) for case in grid.cases()]
    configs = read_configs(grid.config, cases)
    assert list(configs) == [("fedavg", 3), ("fedknow", 3), ("fedavg", 4), ("fedknow", 4)]
    assert [config.seed for config in configs.values()] == [3, 3, 4, 4]
    assert configs[RunId("fedknow", 4)].method.name == "fedknow"


def test_faults_of_configs_name_the_option_and_the_cases_that_have_them(tmp_path: Path):
    grid = read_grid(
        write_config(tmp_path), ["fedavg", "fedknow"], ["method.margin=-1,0", "training.threads=0"], ["model.name=x"]
    )
    with pytest.raises(ConfigError) as caught:
        first_seed(grid)
    told = [str(fault) for fault in caught.value.faults]
    assert [line.partition(":")[0] for line in told] == [
        "--set model.name=x",
        "--vary training.threads=0",
        "--vary method.margin=-1",
    ]
    assert not any("in the case" in line for line in told[:2])
    assert told[2].endswith("(in the case fedknow, margin=-1, threads=0)")


def test_a_folder_says_what_is_in_it():
    assert run_folder("fedknow, margin=0.5", 3) == "runs/fedknow,margin=0.5/seed-3"


@pytest.mark.parametrize("label", ["a, lr={name: sgd}", "a, x=/etc", "a, x=..", "a" * 300, "a, x=ä b"])
def test_a_folder_is_safe_whatever_the_label(label: str):
    runs, name, seed = run_folder(label, 1).split("/")
    assert (runs, seed) == ("runs", "seed-1")
    assert name.isascii()
    assert len(name) <= 80
    assert not set(name) & set(" {}:\\'\"")


@given(st.lists(st.text(min_size=1), unique=True))
def test_other_labels_have_other_folders(values: list[str]):
    folders = [run_folder(f"fedavg, x={value}", 1) for value in values]
    assert len(set(folders)) == len(values)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("a1.,:{}# -"),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("ab1:,", min_size=1), inner),
    max_leaves=6,
)


@given(PLAIN)
def test_a_value_on_one_line_reads_back_as_itself(value: object):
    parsed = parse_yaml(f"[{flow_text(value)}]")
    assert parsed.problems == []
    assert parsed.value == [value]
    assert "\n" not in flow_text(value)
