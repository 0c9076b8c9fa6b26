"""Manifests for Kubernetes with the KubeRay operator: a cluster with pods for each kind of device, and a job.

The job runs on the cluster of the same file. Its config is in a ConfigMap, its results on a volume of their own, which
outlives both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from fedknow_ray.cluster.environment import node_environment
from fedknow_ray.cluster.plan import (
    HEAD_HOST_BYTES,
    HEAD_MEMORY_BYTES,
    MIB,
    OBJECT_STORE_BYTES,
    ClusterPlan,
    NodeGroup,
)

IMAGE = "registry.example.com/fedknow-ray:0.1.0"
#: Of the version that was measured; it must be that of the image.
RAY_VERSION = "2.60.0"
#: The dashboard, the job's driver and the server's actor.
HEAD_CPUS = 2

TEMPLATE = """\
# A Ray cluster on Kubernetes for the fleet of {name}, and the run on it. Needs the KubeRay operator, 1.6 or newer.
#   {fleet}
# Made by: {command}
#
# Fill in: the image, in which fedknow-ray is installed with Ray {ray} (README.md has a Dockerfile). Then:
#
#   kubectl apply -f kuberay.yaml
#   kubectl wait rayjob/{name} --for=jsonpath='{{.status.jobStatus}}'=SUCCEEDED --timeout=4h
apiVersion: v1
kind: ConfigMap
metadata:
  name: {name}-config
data:
  {name}.yaml: |
{config}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {name}-runs
spec:
  accessModes: [ReadWriteOnce]
  resources:
    requests:
      storage: 10Gi
---
apiVersion: ray.io/v1
kind: RayCluster
metadata:
  name: {name}
spec:
  rayVersion: "{ray}"
  authOptions:
    mode: token
  headGroupSpec:
    # no processor for clients, so that none of their visits slows the head down
    resources:
      CPU: "0"
      memory: "{head_bytes}"
    labels:
      fedknow.io/role: head
    rayStartParams:
      object-store-memory: "{store_bytes}"
    template:
      spec:
        securityContext:
          # of the user of Ray's images, who writes to the volume
          fsGroup: 100
        containers:
          - name: ray-head
            image: {image}
            env:
{head_env}
            resources:
              requests:
                cpu: "{head_cpus}"
                memory: {head_mib}Mi
              limits:
                memory: {head_mib}Mi
            volumeMounts:
              - name: config
                mountPath: /fedknow/config
                readOnly: true
              - name: runs
                mountPath: /fedknow/runs
        volumes:
          - name: config
            configMap:
              name: {name}-config
          - name: runs
            persistentVolumeClaim:
              claimName: {name}-runs
  workerGroupSpecs:
{groups}
---
apiVersion: ray.io/v1
kind: RayJob
metadata:
  name: {name}
spec:
  # on the cluster above, which stays when the job has ended
  clusterSelector:
    ray.io/cluster: {name}
  entrypoint: >-
    fedknow-ray run /fedknow/config/{name}.yaml --address auto --out /fedknow/runs/{name} --quiet --json
  submissionMode: K8sJobMode
  shutdownAfterJobFinishes: false
"""

GROUP = """\
    - groupName: {device}
      replicas: {nodes}
      minReplicas: {nodes}
      maxReplicas: {nodes}
      # what Ray offers to clients; the pod's own limits are below
      resources:
        CPU: "{cpus}"
        memory: "{memory_bytes}"
{resources}
      labels:
{labels}
      rayStartParams:
        object-store-memory: "{store_bytes}"
      template:
        spec:
          containers:
            - name: ray-worker
              image: {image}
              env:
{env}
              resources:
                requests:
                  cpu: "{cpus}"
                  memory: {mib}Mi
                limits:
                  memory: {mib}Mi"""


def render(plan: ClusterPlan, config_text: str, command: str, *, image: str = IMAGE) -> str:
    """Return the manifests; *config_text* is the YAML of the config that the job runs, *command* what made them."""
    return TEMPLATE.format(
        name=plan.name,
        fleet=plan.clients,
        command=command,
        ray=RAY_VERSION,
        image=image,
        config="\n".join(f"    {line}".rstrip() for line in config_text.rstrip("\n").split("\n")),
        head_bytes=HEAD_MEMORY_BYTES,
        head_cpus=HEAD_CPUS,
        head_mib=_mib(HEAD_HOST_BYTES),
        head_env=_environment(" " * 14),
        store_bytes=OBJECT_STORE_BYTES,
        groups="\n".join(_group(group, name, image) for group, name in zip(plan.groups, _names(plan), strict=True)),
    )


def _group(group: NodeGroup, name: str, image: str) -> str:
    return GROUP.format(
        device=name,
        nodes=group.nodes,
        cpus=group.cpus,
        memory_bytes=group.memory_bytes,
        resources=_quoted(group.resources, " " * 8),
        labels=_quoted(group.labels, " " * 8),
        store_bytes=OBJECT_STORE_BYTES,
        image=image,
        env=_environment(" " * 16),
        mib=_mib(group.host_bytes),
    )


def _names(plan: ClusterPlan) -> list[str]:
    """Return the names of the groups: the devices' where Kubernetes takes them, and no two alike."""
    names: list[str] = []
    for number, group in enumerate(plan.groups):
        name = "".join(c if c.isascii() and c.isalnum() else "-" for c in group.device.lower()).strip("-")
        names.append(name if name not in names else f"{name}-{number}")
    return names


def _quoted(values: Mapping[str, object], indent: str) -> str:
    # strings in KubeRay's types: a bare number would be refused, and a colon in a key wants quotes
    return "\n".join(f'{indent}"{key}": "{value}"' for key, value in values.items())


def _environment(indent: str) -> str:
    return "\n".join(f'{indent}- {{name: {name}, value: "{value}"}}' for name, value in node_environment().items())


def _mib(size_bytes: int) -> int:
    return math.ceil(size_bytes / MIB)
