"""The one function that turns a plan into the file of a kind of cluster."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from fedknow_ray.cluster import kuberay, launcher, local, slurm
from fedknow_ray.cluster.plan import ClusterPlan
from fedknow_ray.errors import UserError

Kind: TypeAlias = Literal["kuberay", "launcher", "slurm", "local"]
KINDS: tuple[Kind, ...] = get_args(Kind)
#: What each file is called in what it says of itself, and in `cluster/`.
FILES: dict[Kind, str] = {
    "kuberay": "kuberay.yaml",
    "launcher": "launcher.yaml",
    "slurm": "slurm.sh",
    "local": "local.sh",
}
_ONLY_OF: dict[str, Kind] = {"hosts": "launcher", "user": "launcher", "image": "kuberay"}


@dataclass(frozen=True, slots=True)
class Source:
    """What a file is made of besides its nodes: the config, by its path and its resolved text, and the command."""

    config_path: str
    config_text: str
    command: str


@dataclass(frozen=True, slots=True)
class Places:
    """What is known of where the cluster will be; what is None is left to be filled in.

    *hosts* and *user* are the launcher's, *image* is Kubernetes'.
    """

    hosts: Sequence[str] | None = None
    user: str | None = None
    image: str | None = None


def render(kind: Kind, plan: ClusterPlan, source: Source, places: Places | None = None) -> str:
    """Return the file that starts the nodes of a plan on a kind of cluster.

    Raises:
        UserError: if something is given that this kind of cluster has no place for.
    """
    places = places or Places()
    for option, own_kind in _ONLY_OF.items():
        if getattr(places, option) is not None and kind != own_kind:
            raise UserError(f"--{option} goes with --kind {own_kind}, and not with {kind}")
    match kind:
        case "kuberay":
            return kuberay.render(plan, source.config_text, source.command, image=places.image or kuberay.IMAGE)
        case "launcher":
            return launcher.render(plan, source.command, hosts=places.hosts, user=places.user or launcher.USER)
        case "slurm":
            return slurm.render(plan, shlex.quote(source.config_path), source.command)
        case "local":
            return local.render(plan, shlex.quote(source.config_path), source.command)
