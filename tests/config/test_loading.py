import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedknow_ray.config import dump_yaml, load_config, resolve_run_name
from fedknow_ray.config.yaml import format_yaml
from fedknow_ray.errors import ConfigError

FOLDER = Path(__file__).parents[2] / "configs"
CONFIGS = sorted(FOLDER.glob("*.yaml"))
NAMED = {path.stem: path for path in CONFIGS}


def test_all_faults_are_told_at_once_each_with_its_line_and_key(faults_of):
    text = """\
seed: yes
scenari: 3
scenario:
  dataset: cifar10O
  tasks: 0
  partition: {name: shard}
  source: where
model: {nme: cnn6}
method:
  retained_fractoin: 0.1
  signature_tasks: true
training:
  local_epochs: 2.5
  optimizer:
    lr: -1e-4
    beta: 3
fleet:
- {device: jetson-nan, count: 20}
network: {uplink_bytes_per_s: -1 MB/s, latency_s: .nan, downlink_bytes_per_s: 0}
policy: {name: sychronos}
placement: {clients_per_actor: 0, memory_per_actor: 4.5 B}
seed: 3
"""
    assert faults_of(text) == [
        "x.yaml:1: seed: must be a whole number, got 'yes'",
        "x.yaml:2: scenari: unknown key; did you mean 'scenario'?",
        "x.yaml:4: scenario.dataset: unknown data set 'cifar10O'; did you mean 'cifar100'? "
        "Data of your own needs scenario.data_root, and scenario.source: parquet or auto",
        "x.yaml:5: scenario.tasks: must be at least 1, got 0",
        "x.yaml:6: scenario.partition.name: unknown partition 'shard'; did you mean 'shards'?",
        "x.yaml:7: scenario.source: must be 'auto', 'bundled', 'parquet' or 'torchvision', got 'where'",
        "x.yaml:8: model.nme: unknown key; did you mean 'name'?",
        "x.yaml:10: method.retained_fractoin: unknown key; did you mean 'retained_fraction'?",
        "x.yaml:11: method.signature_tasks: must be a whole number, got true",
        "x.yaml:13: training.local_epochs: must be a whole number, got 2.5",
        "x.yaml:15: training.optimizer.lr: must be greater than 0, got -0.0001",
        "x.yaml:16: training.optimizer.beta: unknown key; known: lr, lr_decay, name, weight_decay",
        "x.yaml:18: fleet.0.device: unknown device 'jetson-nan'; did you mean 'jetson-nano'?",
        "x.yaml:19: network.latency_s: must be a finite number, got nan",
        "x.yaml:19: network.uplink_bytes_per_s: must be greater than 0, got '-1 MB/s'",
        "x.yaml:19: network.downlink_bytes_per_s: must be greater than 0, got 0",
        "x.yaml:20: policy.name: unknown policy 'sychronos'; did you mean 'synchronous'?",
        "x.yaml:21: placement.clients_per_actor: must be a whole number of at least 1, or auto, got 0",
        "x.yaml:21: placement.memory_per_actor: '4.5 B' is not a whole number of bytes",
        "x.yaml:22: seed: is said twice (first on line 1); keep one",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("method: {name: fedknw}\n", "x.yaml:1: method.name: unknown method 'fedknw'; did you mean 'fedknow'?"),
        ("method: {name: 3}\n", "x.yaml:1: method.name: unknown method 3; known: fedavg, fedknow, fedrep"),
        ("method: {name: fedavg, rho: 1}\n", "x.yaml:1: method.rho: unknown key; known: name"),
        ("method: {nam: fedavg}\n", "x.yaml:1: method.nam: unknown key; did you mean 'name'?"),
        ("method: {limit: most}\n", "x.yaml:1: method.limit: must be a whole number or 'all', got 'most'"),
        ("method: {retained_fraction: 1.5}\n", "x.yaml:1: method.retained_fraction: must be at most 1, got 1.5"),
        ("method: {retained_fraction: '0.5'}\n", "x.yaml:1: method.retained_fraction: must be a number, got '0.5'"),
        ("method: {retained_fraction: .nan}\n", "x.yaml:1: method.retained_fraction: must be a finite number, got nan"),
        ("method: {weights: [1, .inf]}\n", "x.yaml:1: method.weights.1: must be a finite number, got inf"),
        ("method: fedavg\n", "x.yaml:1: method: must be a mapping of keys, got 'fedavg'; write method: {name: fedavg}"),
        ("method:\n", "x.yaml:1: method: must be a mapping of keys, got null"),
        ("training:\n", "x.yaml:1: training: must be a mapping of keys, got null"),
        ("model: cnn6\n", "x.yaml:1: model: must be a mapping of keys, got 'cnn6'; write model: {name: cnn6}"),
        (
            "training: {optimizer: sgd}\n",
            "x.yaml:1: training.optimizer: must be a mapping of keys, got 'sgd'; write optimizer: {name: sgd}",
        ),
        (
            "training:\n  optimizer:\n    name: null\n",
            "x.yaml:3: training.optimizer.name: unknown optimizer null; known: adam, sgd",
        ),
        ("methods: {}\n", "x.yaml:1: methods: unknown key; did you mean 'method'?"),
        ("fleet: []\n", "x.yaml:1: fleet: must have 1 or more entries, got a list"),
        ("policy: {cohorts: [[1, 1]]}\n", "x.yaml:1: policy.cohorts.0: names a client twice: 1, 1"),
        ("policy: {cohorts: []}\n", "x.yaml:1: policy.cohorts: must have 1 or more entries, got a list"),
        (
            "seed: 9223372036854775808\n",
            "x.yaml:1: seed: must be less than 9223372036854775808, got 9223372036854775808",
        ),
        (
            "model: {<<: {}}\n",
            "x.yaml:1: model.<<: unknown key; known: head, name",
        ),
    ],
)
def test_one_mistake_is_one_fault(faults_of, text, fault):
    assert faults_of(text) == [fault]


def test_the_error_message_holds_no_jargon(load):
    with pytest.raises(ConfigError) as caught:
        load("seed: [1]\nmodel: 3\npolicy: {name: 3}\nfleet: 3\nscenario: {partition: {name: {}}}\n")
    message = str(caught.value)
    assert len(caught.value.faults) == 5
    assert not any(
        word in message.lower() for word in ("pydantic", "http", "validat", "input", "tag", "tuple", "type=")
    )


def test_a_missing_file_is_a_config_error(catalogue, tmp_path):
    with pytest.raises(ConfigError, match="there is no such file"):
        load_config(tmp_path / "none.yaml", catalogue=catalogue)


def test_units_are_resolved(load):
    config = load("network: {uplink_bytes_per_s: 8 Mbit/s, latency_s: 5 ms}\nplacement: {memory_per_actor: 1 GiB}\n")
    assert config.network.uplink_bytes_per_s == 1e6
    assert config.network.latency_s == 0.005
    assert config.placement.memory_per_actor == 2**30


def test_a_name_that_yaml_1_1_takes_for_false_is_a_name(load):
    assert load("method: {second_use: off}\n").method.hyper.second_use == "off"


def test_a_named_entry_without_a_name_has_the_default_one(load):
    assert load("training: {optimizer: {lr: 0.5}}\n").training.optimizer.name == "adam"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_loads_and_its_resolved_text_loads_to_an_equal_config(path, catalogue, load):
    config = load_config(path, catalogue=catalogue)
    assert load(dump_yaml(config)) == config


def test_awkward_values_survive_the_resolved_text(load):
    config = load(
        "method: {weights: [1e-7, 1e22, 3], second_use: off}\n"
        "scenario: {data_root: 'off', dataset: '1e-4', source: parquet}\n"
        "policy: {cohorts: [[0, 1], [2]]}\nplacement: {clients_per_actor: auto}\n"
    )
    assert load(dump_yaml(config)) == config


def test_the_small_config_is_the_large_one_with_four_tasks_of_eight_rounds(catalogue):
    full, small = (load_config(NAMED[name], catalogue=catalogue).to_dict() for name in ("cifar100", "cifar100-small"))
    full["scenario"]["tasks"], full["training"]["rounds_per_task"] = 4, 8
    assert small == full


def test_the_quick_start_has_eight_clients_on_four_kinds_of_device(catalogue):
    config = load_config(NAMED["quickstart"], catalogue=catalogue)
    assert (config.scenario.clients, len(set(config.devices))) == (8, 4)


# fmt: off
KEYS = st.sampled_from([
    "seed", "scenario", "model", "method", "training", "fleet", "network", "policy",
    "placement", "name", "partition", "optimizer", "cohorts", "device", "count", "lr",
    "clients", "tasks", "dataset", "data_root", "latency_s", "memory_per_actor", "clients_per_actor",
    "retained_fraction", "weights", "0", "x",
])
# fmt: on
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 30)
    | st.floats()
    | st.sampled_from(
        ["adam", "sgd", "shards", "iid", "fedknow", "fedavg", "digits", "1 MB/s", "4 GiB", "~", "", "off"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.dictionaries(KEYS, VALUES, max_size=5),
    st.lists(st.tuples(st.lists(KEYS, min_size=1, max_size=3).map(".".join), VALUES), max_size=3),
)
def test_whatever_is_said_it_is_a_config_or_a_list_of_faults(load, tree, overrides):
    options = [
        f"{key}={json.dumps(value).replace('NaN', '.nan').replace('Infinity', '.inf')}" for key, value in overrides
    ]
    try:
        config = load(format_yaml(tree), *options)
    except ConfigError as error:
        assert all(fault.where.startswith(("x.yaml:", "--set ")) for fault in error.faults)
    else:
        assert load(dump_yaml(config)) == config


def test_a_run_is_named_after_its_file():
    assert resolve_run_name("configs/cifar100-small.yaml") == "cifar100-small"


def own_devices(**faults):
    """Make the folder "own" with a device file for each name; a file's text is its fault."""
    Path("own").mkdir()
    for name, fault in faults.items():
        Path("own", f"{name}.yaml").write_text(fault)


def test_own_devices_stand_beside_the_shipped_ones(load):
    text = (
        "devices_path: own\nscenario: {clients: 2}\nfleet: [{device: board, count: 1}, {device: jetson-nano, count: 1}]"
    )
    own_devices(board="")
    config = load(text)
    assert config.devices == ("board", "jetson-nano")
    assert load(dump_yaml(config)) == config


def test_a_config_without_own_devices_is_written_as_it_was_before_there_were_any(load):
    assert "devices_path" not in dump_yaml(load("devices_path: null"))


def test_all_faults_of_own_devices_are_told_with_those_of_the_config_by_their_files(faults_of):
    own_devices(one="must be measured", two="must be estimated")
    text = "seed: x\ndevices_path: own\nfleet: [{device: board, count: 20}]"
    assert faults_of(text)[1:] == [
        "own/one.yaml: busy_w.basis: must be measured",
        "own/two.yaml: busy_w.basis: must be estimated",
    ]


def test_a_folder_of_devices_that_is_not_there_is_named_with_the_key(faults_of):
    assert faults_of("devices_path: nowhere") == ["x.yaml:1: devices_path: nowhere: there is no such folder"]


def test_a_path_of_devices_that_is_no_text_is_a_fault_of_the_config_alone(faults_of):
    (fault,) = faults_of("devices_path: 3\nfleet: [{device: board, count: 20}]")
    assert fault.startswith("x.yaml:1: devices_path:")
