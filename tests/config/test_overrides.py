from pathlib import Path

import numpy as np
import pytest

KNOW = "method:\n  name: fedknow\n  retained_fraction: 0.2\n  signature_tasks: 3\n"
ADAM = "training:\n  optimizer:\n    lr: 0.5\n    weight_decay: 0.1\n"


def test_a_value_is_yaml(load):
    config = load("{}", "training.optimizer.lr=1e-4", "method.second_use=off", "scenario.samples_per_client=null")
    assert config.training.optimizer.lr == 1e-4
    assert config.method.hyper.second_use == "off"
    assert config.scenario.samples_per_client is None


def test_a_value_may_hold_an_equals_sign(load):
    assert load("{}", "scenario.data_root=a=b").scenario.data_root == Path("a=b")


def test_a_key_reaches_into_a_list(load):
    fleet = "fleet:\n- {device: jetson-nano, count: 8}\n- {device: jetson-tx2, count: 12}\n"
    config = load(fleet, "fleet.0.device=raspberry-pi-4-4gb")
    assert [(entry.device, entry.count) for entry in config.fleet] == [("raspberry-pi-4-4gb", 8), ("jetson-tx2", 12)]


def test_a_key_reaches_into_a_list_that_is_the_default(load):
    config = load("{}", "fleet.1.device=raspberry-pi-4-4gb")
    assert [entry.device for entry in config.fleet] == [
        "jetson-nano",
        "raspberry-pi-4-4gb",
        "jetson-xavier-nx",
        "jetson-agx-xavier",
    ]


def test_a_section_that_the_file_leaves_out_is_made(load):
    assert load("seed: 2\n", "training.optimizer.lr=0.5").training.optimizer.lr == 0.5


def test_a_whole_list_is_replaced(load):
    config = load("{}", "fleet=[{device: jetson-nano, count: 20}]")
    assert config.devices == ("jetson-nano",) * 20


def test_of_two_options_with_one_key_the_last_counts(load):
    assert load("{}", "seed=2", "seed=3").seed == 3


def test_another_method_takes_its_own_defaults(load):
    assert load(KNOW, "method.name=fedavg").to_dict()["method"] == {"name": "fedavg"}


def test_a_whole_method_is_replaced(load):
    assert load(KNOW, "method={name: fedavg}").to_dict()["method"] == {"name": "fedavg"}


def test_a_whole_method_of_the_same_name_forgets_what_the_file_said(load):
    hyper = load(KNOW, "method={name: fedknow, signature_tasks: 2}").method.hyper
    assert (hyper.retained_fraction, hyper.signature_tasks) == (0.1, 2)


def test_the_same_name_changes_nothing(load):
    assert load(KNOW, "method.name=fedknow") == load(KNOW)


def test_there_and_back_changes_nothing(load):
    assert load(KNOW, "method.name=fedavg", "method.name=fedknow") == load(KNOW)


def test_a_file_without_a_name_means_the_default_one(load):
    text = "method: {retained_fraction: 0.2}\n"
    assert load(text, "method.name=fedknow").method.hyper.retained_fraction == 0.2
    assert load(text, "method.name=fedavg").method.name == "fedavg"


@pytest.mark.parametrize("reverse", [False, True])
def test_keys_from_other_options_stay_with_the_new_name_in_any_order(load, reverse):
    options = ["method.name=fedknow", "method.retained_fraction=0.3"]
    text = "method: {name: fedavg}\n"
    assert load(text, *(options[::-1] if reverse else options)).method.hyper.retained_fraction == 0.3


@pytest.mark.parametrize("reverse", [False, True])
def test_a_new_optimizer_keeps_only_what_options_say_of_it(load, reverse):
    options = ["training.optimizer.name=sgd", "training.optimizer.momentum=0.9"]
    optimizer = load(ADAM, *(options[::-1] if reverse else options)).training.optimizer
    assert optimizer.model_dump() == {
        "name": "sgd",
        "lr": 0.01,
        "momentum": 0.9,
        "lr_decay": 1e-4,
        "weight_decay": 0.0,
    }


def test_a_new_partition_drops_the_files_keys(load):
    text = "scenario: {partition: {name: shards, shards_per_client: 3}}\n"
    assert load(text, "scenario.partition.name=iid").scenario.partition.model_dump() == {"name": "iid"}


@pytest.mark.parametrize("reverse", [False, True])
def test_a_part_holds_against_the_whole_in_any_order(load, reverse):
    options = ["method.retained_fraction=0.3", "method={name: fedknow, retained_fraction: 0.4, signature_tasks: 2}"]
    hyper = load("{}", *(options[::-1] if reverse else options)).method.hyper
    assert (hyper.retained_fraction, hyper.signature_tasks) == (0.3, 2)


def test_another_files_key_of_the_same_section_stays(load):
    assert load("training: {threads: 2}\n", "training.optimizer.name=sgd").training.threads == 2


def test_python_values_are_taken_as_they_are(load):
    overrides = {
        "method.name": "fedavg",
        "scenario.data_root": Path("data"),
        "seed": np.int64(7),
        "training.optimizer.lr": np.float64(0.5),
        "policy": {"name": "synchronous", "cohorts": ((0, 1), [2])},
    }
    config = load(KNOW, overrides=overrides)
    assert config.method.name == "fedavg"
    assert config.scenario.data_root == Path("data")
    assert (config.seed, config.training.optimizer.lr) == (7, 0.5)
    assert config.policy.cohorts == ((0, 1), (2,))


@pytest.mark.parametrize(
    ("option", "fault"),
    [
        ("seed", "--set seed: must be KEY=VALUE, for example training.threads=2"),
        ("=3", "--set =3: the key '' has an empty part; write it as in training.threads"),
        ("a..b=3", "--set a..b=3: the key 'a..b' has an empty part; write it as in training.threads"),
        ("seed.x=3", "--set seed.x=3: seed.x: seed is 1 and has no keys"),
        (
            "scenario.data_root.x=3",
            "--set scenario.data_root.x=3: scenario.data_root.x: scenario.data_root is null and has no keys",
        ),
        (
            "fleet.4.count=1",
            "--set fleet.4.count=1: fleet.4.count: there is no position 4: fleet has the positions 0 to 3",
        ),
        ("fleet.-1.count=1", "--set fleet.-1.count=1: fleet.-1.count: fleet is a list; '-1' is not a position in it"),
        ("fleet.x=1", "--set fleet.x=1: fleet.x: fleet is a list; 'x' is not a position in it"),
        ("seed={a: 1, a: 2}", "--set seed={a: 1, a: 2}: seed.a: is said twice (first on line 1); keep one"),
        ("seed=2\n--- 3", None),
        ("seed=[", None),
        ("sed=3", "--set sed=3: sed: unknown key; did you mean 'seed'?"),
        ("trainin.threads=3", "--set trainin.threads=3: trainin: unknown key; did you mean 'training'?"),
        ("seed=-3", "--set seed=-3: seed: must be at least 0, got -3"),
        (
            "method.name=fedavgg",
            "--set method.name=fedavgg: method.name: unknown method 'fedavgg'; did you mean 'fedavg'?",
        ),
        ("fleet.0.device=x-wing", None),
    ],
)
def test_a_bad_option_is_a_fault_at_the_option(faults_of, option, fault):
    (told,) = faults_of("seed: 1\nscenario: {data_root: null}\n", option)
    assert told.startswith(f"--set {option}: ")
    if fault is not None:
        assert told == fault


def test_an_empty_list_has_no_positions(faults_of):
    faults = faults_of("fleet: []\n", "fleet.0.count=1")
    assert "--set fleet.0.count=1: fleet.0.count: there is no position 0: fleet is empty" in faults


def test_bad_options_and_a_bad_file_are_told_together(faults_of):
    assert faults_of("seed: -1\n", "training.threads=0", "oops") == [
        "x.yaml:1: seed: must be at least 0, got -1",
        "--set training.threads=0: training.threads: must be at least 1, got 0",
        "--set oops: must be KEY=VALUE, for example training.threads=2",
    ]


def test_a_bad_option_is_told_beside_a_file_that_cannot_be_read(faults_of):
    faults = faults_of("[", "oops")
    assert [fault.split(": ")[0] for fault in faults] == ["x.yaml:1", "--set oops"]


def test_a_python_override_names_its_key_in_faults(faults_of):
    assert faults_of(overrides={"seed": -3, "model.name": {1, 2}, "a.": 3}) == [
        "overrides['seed']: seed: must be at least 0, got -3",
        "overrides['model.name']: model.name: a config cannot hold a set; give text, numbers, lists or dicts",
        "overrides['a.']: the key 'a.' has an empty part; write it as in training.threads",
    ]


def test_a_faulty_option_hides_the_line_that_it_replaces(faults_of):
    assert faults_of("training:\n  threads: 0\n", "training.threads=-1") == [
        "--set training.threads=-1: training.threads: must be at least 1, got -1"
    ]
