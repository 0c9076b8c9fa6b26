"""The manifests for Kubernetes, against a strict check of our own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from fleets import PLAN, SOURCE
from manifest_check import faults

from fedknow_ray.cluster.plan import ClusterPlan, NodeGroup
from fedknow_ray.cluster.render import Places, render
from fedknow_ray.errors import UserError


def documents(**places: Any) -> dict[str, Any]:
    text = render("kuberay", PLAN, SOURCE, Places(**places))
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def test_the_manifests_pass_a_strict_check():
    found = documents()
    assert [*found] == ["ConfigMap", "PersistentVolumeClaim", "RayCluster", "RayJob"]
    assert [fault for document in found.values() for fault in faults(document)] == []


def test_each_kind_of_device_is_a_group_with_resources_and_labels():
    """As strings, the colon kept; Kubernetes takes no capitals, '_' and '.' in the name of a group."""
    nano, pi = documents()["RayCluster"]["spec"]["workerGroupSpecs"]
    assert nano["groupName"] == "nano"
    assert pi["groupName"] == "pi-4-4gb"
    assert nano["resources"] == {"CPU": "2", "memory": str(1600 * 2**20), "device:nano": "3"}
    assert pi["labels"] == {"fedknow.io/device": "Pi_4.4GB"}
    assert (nano["minReplicas"], nano["replicas"], nano["maxReplicas"]) == (2, 2, 2)
    (container,) = nano["template"]["spec"]["containers"]
    assert container["resources"] == {
        "requests": {"cpu": "2", "memory": "2880Mi"},
        "limits": {"memory": "2880Mi"},
    }
    assert {"name": "RAY_health_check_period_ms", "value": "1000"} in container["env"]


def test_the_head_has_no_processor_for_clients_and_asks_for_a_token():
    spec = documents()["RayCluster"]["spec"]
    assert spec["headGroupSpec"]["resources"] == {"CPU": "0", "memory": str(400 * 2**20)}
    assert spec["authOptions"] == {"mode": "token"}


def test_the_job_runs_the_config_on_the_cluster_of_the_same_file():
    found = documents(image="example.com/own:2")
    job, cluster = found["RayJob"]["spec"], found["RayCluster"]
    assert job["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    assert job["entrypoint"] == (
        "fedknow-ray run /fedknow/config/small.yaml --address auto --out /fedknow/runs/small --quiet --json"
    )
    assert found["ConfigMap"]["data"] == {"small.yaml": SOURCE.config_text}
    pod = cluster["spec"]["headGroupSpec"]["template"]["spec"]
    assert pod["volumes"][0]["configMap"]["name"] == found["ConfigMap"]["metadata"]["name"]
    assert pod["volumes"][1]["persistentVolumeClaim"]["claimName"] == "small-runs"
    assert pod["containers"][0]["image"] == "example.com/own:2"


def test_groups_whose_names_kubernetes_takes_for_one_are_told_apart():
    groups = tuple(NodeGroup(device, 1, 1, 1, 2**29) for device in ("pi_4", "pi.4"))
    text = render("kuberay", ClusterPlan("two", groups), SOURCE)
    (cluster,) = (each for each in yaml.safe_load_all(text) if each["kind"] == "RayCluster")
    assert [group["groupName"] for group in cluster["spec"]["workerGroupSpecs"]] == ["pi-4", "pi-4-1"]
    assert faults(cluster) == []


def group_of(document: Any) -> Any:
    return document["spec"]["workerGroupSpecs"][0]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda d: group_of(d).update(label=group_of(d).pop("labels")), "unknown key label"),
        (lambda d: group_of(d)["resources"].update({"device:nano": 3}), "3 is no string"),
        (lambda d: group_of(d)["resources"].update(memory="8 gigs"), "'8 gigs' is not as it must be"),
        (lambda d: group_of(d)["labels"].update({"fedknow.io/device": "a b"}), "'a b' is not as it must be"),
        (lambda d: d["spec"]["authOptions"].update(mode="tokne"), "'tokne' is not 'token'"),
        (lambda d: group_of(d).pop("template"), "template is missing"),
        (lambda d: group_of(d).update(minReplicas=3), "the replicas are not between"),
        (lambda d: group_of(d).update(replicas="2"), "'2' is no whole number"),
        (lambda d: group_of(d).update(groupName="Nano"), "'Nano' is not as it must be"),
        (lambda d: group_of(d)["rayStartParams"].update({"object-store-memory": "9" * 12}), "Ray hands out"),
        (lambda d: d["spec"].update(workerGroupSpecs=[group_of(d)] * 2), "two groups have one name"),
        (lambda d: d.update(kind="RayClusters"), "unknown kind of document"),
    ],
)
def test_the_check_itself_catches(spoil: Callable[[Any], Any], told: str):
    cluster = copy.deepcopy(documents()["RayCluster"])
    spoil(cluster)
    assert any(told in fault for fault in faults(cluster)), faults(cluster)


@pytest.mark.parametrize("option", [{"hosts": ["a"]}, {"user": "me"}])
def test_what_has_no_place_in_a_manifest_is_refused(option: dict[str, Any]):
    with pytest.raises(UserError, match="goes with --kind launcher, and not with kuberay"):
        documents(**option)
