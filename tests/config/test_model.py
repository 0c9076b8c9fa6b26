import pickle
from pathlib import Path

import pytest
from pydantic import ValidationError

from fedknow_ray.config.model import (
    CommonConfig,
    FleetEntry,
    RunConfig,
    ScenarioConfig,
    SgdOptimizer,
    ShardsPartition,
    TrainingConfig,
)


def test_the_defaults_are_those_of_the_contract(load):
    assert load().to_dict() == {
        "seed": 1,
        "scenario": {
            "dataset": "cifar100",
            "data_root": None,
            "source": "auto",
            "setting": "task_incremental",
            "tasks": 10,
            "classes_per_task": 10,
            "clients": 20,
            "partition": {"name": "shards", "shards_per_client": 5, "reuse_across_tasks": True},
            "samples_per_client": 240,
            "task_order": "same",
        },
        "model": {"name": "cnn6", "head": "local"},
        "method": {
            "name": "fedknow",
            "retained_fraction": 0.1,
            "signature_tasks": 10,
            "second_use": "on_receive",
            "threshold": "network",
            "retrain_epochs": 2,
            "limit": "all",
            "weights": [],
        },
        "training": {
            "rounds_per_task": 15,
            "client_fraction": 0.4,
            "local_epochs": 8,
            "batch_size": 40,
            "threads": 1,
            "shuffle": True,
            "precision": "float32",
            "optimizer": {"name": "adam", "lr": 0.001, "lr_decay": 1e-4, "weight_decay": 0.0},
        },
        "fleet": [
            {"device": "jetson-nano", "count": 8},
            {"device": "jetson-tx2", "count": 2},
            {"device": "jetson-xavier-nx", "count": 8},
            {"device": "jetson-agx-xavier", "count": 2},
        ],
        "network": {
            "uplink_bytes_per_s": 1e6,
            "downlink_bytes_per_s": 1e6,
            "latency_s": 0.02,
            "jitter_s": 0.0,
            "uplink_trace": None,
            "downlink_trace": None,
            "framing": None,
            "loss_fraction": 0.0,
            "server_uplink_bytes_per_s": None,
            "server_downlink_bytes_per_s": None,
        },
        "compression": {"name": "none"},
        "availability": {"name": "always"},
        "outages": [],
        "failures": {"probability": 0.0, "schedule": [], "bad_updates": []},
        "door": {"most_norm_ratio": 100.0},
        "on_out_of_memory": "fail",
        "policy": {"name": "synchronous", "selection": "uniform", "cohorts": None},
        "task_arrival": {"lockstep": True},
        "clock": "virtual",
        "host_device": None,
        "placement": {"clients_per_actor": 1, "memory_per_actor": None},
        "recovery": {
            "checkpoint_every_rounds": 1,
            "keep_task_ends": True,
            "losses_in_a_row": 3,
            "hung_after_s": None,
            "wait_for_node_s": 600.0,
        },
    }


def test_the_sections_stand_in_the_order_of_the_contract(load):
    order = [
        *("seed", "scenario", "model", "method", "training"),
        *("devices_path", "fleet", "network", "compression", "availability", "outages", "failures"),
        *("door", "on_out_of_memory", "policy", "task_arrival", "clock", "host_device", "placement", "recovery"),
    ]
    Path("own").mkdir()
    assert list(load("devices_path: own").to_dict()) == order
    assert set(order) == set(RunConfig.model_fields)


def test_sgd_has_a_learning_rate_of_its_own():
    assert SgdOptimizer().model_dump() == {
        "name": "sgd",
        "lr": 0.01,
        "momentum": 0.0,
        "lr_decay": 1e-4,
        "weight_decay": 0.0,
    }


@pytest.mark.parametrize(
    ("fraction", "clients", "visiting"),
    [(0.4, 20, 8), (0.5, 5, 3), (0.29, 100, 29), (1, 7, 7), (0.02, 20, 0), (0.05, 10, 1)],
)
def test_clients_per_round_is_the_nearest_whole_number(fraction, clients, visiting):
    config = CommonConfig(scenario=ScenarioConfig(clients=clients), training=TrainingConfig(client_fraction=fraction))
    assert config.clients_per_round == visiting


def test_devices_are_dealt_out_in_the_fleets_order():
    fleet = (FleetEntry(device="a", count=2), FleetEntry(device="b", count=1), FleetEntry(device="a", count=1))
    assert CommonConfig(fleet=fleet).devices == ("a", "a", "b", "a")


def test_a_config_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        ShardsPartition().shards_per_client = 3


def test_an_unknown_key_is_refused_from_python_too():
    with pytest.raises(ValidationError, match="extra"):
        ScenarioConfig(client=3)


def test_a_config_survives_pickling_as_ray_does_it(load):
    config = load("method: {retained_fraction: 0.2}")
    assert pickle.loads(pickle.dumps(config)) == config
