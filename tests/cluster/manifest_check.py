"""A strict check of the Kubernetes manifests that we write, by hand: what `kubectl --validate=strict` would refuse.

It knows the keys that we use and no others. KubeRay's types: `ray-operator/apis/ray/v1/raycluster_types.go`, where the
resources and labels of a group are map[string]string.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Check = Callable[[Any, str], Iterator[str]]

QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
LABEL_KEY = re.compile(r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
DNS_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
IMAGE = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*(:\d+)?(/[a-z0-9._-]+)*(:[\w.-]+)?(@sha256:[0-9a-f]{64})?")


def text(pattern: re.Pattern[str] | None = None) -> Check:
    def check(value: Any, at: str) -> Iterator[str]:
        if not isinstance(value, str):
            yield f"{at}: {value!r} is no string"
        elif pattern is not None and pattern.fullmatch(value) is None:
            yield f"{at}: {value!r} is not as it must be"

    return check


def whole(value: Any, at: str) -> Iterator[str]:
    if type(value) is not int or value < 0:
        yield f"{at}: {value!r} is no whole number"


def flag(value: Any, at: str) -> Iterator[str]:
    if type(value) is not bool:
        yield f"{at}: {value!r} is neither true nor false"


def exactly(wanted: Any) -> Check:
    def check(value: Any, at: str) -> Iterator[str]:
        if value != wanted or type(value) is not type(wanted):
            yield f"{at}: {value!r} is not {wanted!r}"

    return check


def pairs(key: Check, item: Check) -> Check:
    def check(value: Any, at: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"{at}: {value!r} is no map"
            return
        for name, inner in value.items():
            yield from key(name, f"{at}, the key")
            yield from item(inner, f"{at}.{name}")

    return check


def each(item: Check) -> Check:
    def check(value: Any, at: str) -> Iterator[str]:
        if not isinstance(value, list) or not value:
            yield f"{at}: {value!r} is no list of something"
            return
        for number, inner in enumerate(value):
            yield from item(inner, f"{at}[{number}]")

    return check


@dataclass(frozen=True)
class Shape:
    """A map of known keys, of which some may be absent."""

    needed: dict[str, Any]
    optional: dict[str, Any] | None = None

    def __call__(self, value: Any, at: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"{at}: {value!r} is no map"
            return
        known = {**self.needed, **(self.optional or {})}
        yield from (f"{at}: {key} is missing" for key in self.needed if key not in value)
        for key, inner in value.items():
            if key in known:
                yield from known[key](inner, f"{at}.{key}")
            else:
                yield f"{at}: unknown key {key}"


QUANTITIES = pairs(text(), text(QUANTITY))
LABELS = pairs(text(LABEL_KEY), text(LABEL_VALUE))
NAMED = Shape({"name": text(DNS_LABEL)})
CONTAINER = Shape(
    {
        "name": text(DNS_LABEL),
        "image": text(IMAGE),
        "env": each(Shape({"name": text(re.compile(r"[A-Za-z_][A-Za-z0-9_]*")), "value": text()})),
        "resources": Shape({"requests": QUANTITIES, "limits": QUANTITIES}),
    },
    {"volumeMounts": each(Shape({"name": text(DNS_LABEL), "mountPath": text()}, {"readOnly": flag}))},
)
VOLUME = Shape(
    {"name": text(DNS_LABEL)}, {"configMap": NAMED, "persistentVolumeClaim": Shape({"claimName": text(DNS_LABEL)})}
)
TEMPLATE = Shape(
    {
        "spec": Shape(
            {"containers": each(CONTAINER)}, {"volumes": each(VOLUME), "securityContext": Shape({"fsGroup": whole})}
        )
    }
)
GROUP = {
    "resources": QUANTITIES,
    "labels": LABELS,
    # KubeRay writes into this map, so it must be there
    "rayStartParams": pairs(text(), text()),
    "template": TEMPLATE,
}
WORKERS = Shape({**GROUP, "groupName": text(DNS_LABEL), "replicas": whole, "minReplicas": whole, "maxReplicas": whole})
SPECS: dict[tuple[str, str], dict[str, Check]] = {
    ("v1", "ConfigMap"): {"data": pairs(text(), text())},
    ("v1", "PersistentVolumeClaim"): {
        "spec": Shape({"accessModes": each(exactly("ReadWriteOnce")), "resources": Shape({"requests": QUANTITIES})})
    },
    ("ray.io/v1", "RayCluster"): {
        "spec": Shape(
            {
                "rayVersion": text(re.compile(r"\d+\.\d+\.\d+")),
                "authOptions": Shape({"mode": exactly("token")}),
                "headGroupSpec": Shape(GROUP),
                "workerGroupSpecs": each(WORKERS),
            }
        )
    },
    ("ray.io/v1", "RayJob"): {
        "spec": Shape(
            {
                "clusterSelector": LABELS,
                "entrypoint": text(),
                "submissionMode": exactly("K8sJobMode"),
                # the cluster is not the job's own
                "shutdownAfterJobFinishes": exactly(False),
            }
        )
    },
}


def faults(document: Any) -> list[str]:
    """Return what is wrong with one document."""
    kind = (document.get("apiVersion"), document.get("kind"))
    if kind not in SPECS:
        return [f"unknown kind of document {kind}"]
    head = {"apiVersion": text(), "kind": text(), "metadata": NAMED}
    found = list(Shape({**head, **SPECS[kind]})(document, kind[1]))
    return found or list(_together(document))


def _together(document: Any) -> Iterator[str]:
    """What each key cannot say alone."""
    if document["kind"] != "RayCluster":
        return
    spec = document["spec"]
    groups = spec["workerGroupSpecs"]
    names = [group["groupName"] for group in groups]
    if len(set(names)) < len(names):
        yield f"two groups have one name: {names}"
    for group in groups:
        if not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
            yield f"{group['groupName']}: the replicas are not between the least and the most"
    for group in [spec["headGroupSpec"], *groups]:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        yield from (
            f"no volume {mount['name']}" for mount in container.get("volumeMounts", []) if mount["name"] not in volumes
        )
        # what Ray hands out, and its store, must be in what the pod may take
        handed = int(group["resources"]["memory"]) + int(group["rayStartParams"]["object-store-memory"])
        limit = int(container["resources"]["limits"]["memory"].removesuffix("Mi")) * 2**20
        if handed >= limit:
            yield f"{container['name']}: Ray hands out {handed} bytes of {limit}"
