"""The file for Ray's cluster launcher (`ray up`) on machines that are there: a lab of labelled boards.

The launcher's provider for such machines knows no kinds of node, so the start command of the workers finds out by its
machine's address which kind it is; its processors and memory are what Ray finds there. Ray's own start commands would
begin with `ray stop`, which ends every Ray of the user on the machine; these end, by its process id, only what they
started themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fedknow_ray.cluster.environment import exports, node_environment, resource_options
from fedknow_ray.cluster.plan import ClusterPlan, NodeGroup
from fedknow_ray.errors import UserError

#: Addresses that are set aside for documents (RFC 5737) until there are real ones.
PLACEHOLDER = "192.0.2.{}"
FIRST_PLACEHOLDER = 10
USER = "USER"

TEMPLATE = """\
# A cluster of machines that are there, for the fleet of {name}, by Ray's cluster launcher.
#   {fleet}
# Made by: {command}
#
# Fill in: the addresses (in provider and, the same ones, in worker_start_ray_commands) and the user. The machines have
# fedknow-ray in the environment that the first line of the commands names. Then, where the token lies beside this file:
#
#   (umask 077; python -c 'import secrets; print(secrets.token_hex(32), end="")' > fedknow-ray.token)
#   ray up launcher.yaml --yes
#
# Do not use `ray down` or `ray stop`: they end every Ray of the user on these machines. README.md has what to do.
cluster_name: {name}
provider:
  type: local
  head_ip: {head}
  worker_ips:
{worker_ips}
auth:
  ssh_user: {user}
max_workers: {workers}
file_mounts:
  ~/.fedknow-ray/{name}.token: ./fedknow-ray.token
head_start_ray_commands:
  - |-
{head_command}
worker_start_ray_commands:
  - |-
{worker_command}
"""

#: Of every machine. The user's own folder, as /tmp is everybody's; Ray's is in /tmp, since a socket's path is short.
COMMON = """\
export PATH="$HOME/fedknow-ray/.venv/bin:$PATH"
umask 077
own=$HOME/.fedknow-ray/{name} ray_folder=/tmp/fkr-$(id -u)-{name}
mkdir -p "$own" "$ray_folder" && [ -O "$ray_folder" ] || exit 1
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$own.token
{environment}
# what an earlier `ray up` started here, and nothing else
if old=$(cat "$own/pid" 2> /dev/null) && grep -qs -- "--temp-dir=$ray_folder/ray" "/proc/$old/cmdline"; then
  kill "$old"
  while kill -0 "$old" 2> /dev/null; do sleep 0.5; done
fi
"""

MACHINES = """\
# which machine is what
mine=
for ip in $(hostname -I); do
  case $ip in
{cases}
  esac
done
if [ -z "$mine" ]; then
  echo "no kind of device is given for this machine ($(hostname -I)) in worker_start_ray_commands" >&2
  exit 1
fi
"""

START = """\
: > "$own/log"
setsid nohup sh -c 'echo $$ > "$0/pid"; exec ray start "$@"' "$own" \\
  {options} \\
  --block --temp-dir="$ray_folder/ray" >> "$own/log" 2>&1 < /dev/null &
for _ in $(seq 240); do
  if grep -q "Ray runtime started" "$own/log"; then exit 0; fi
  sleep 0.5
done
tail -n 30 "$own/log" >&2
exit 1
"""


def render(plan: ClusterPlan, command: str, *, hosts: Sequence[str] | None = None, user: str = USER) -> str:
    """Return the file; *command* is what made it.

    *hosts* are the addresses of the head and of each worker, in the order of the plan's kinds; None leaves them to be
    filled in.

    Raises:
        UserError: if there are not as many as nodes.
    """
    kinds = plan.kinds
    head, *workers = hosts or [PLACEHOLDER.format(FIRST_PLACEHOLDER + n) for n in range(len(kinds) + 1)]
    if len(workers) != len(kinds):
        wanted = ", ".join(["the head", *(group.device for group in kinds)])
        raise UserError(f"--hosts gives {len(workers) + 1} addresses, and there are {len(kinds) + 1} nodes: {wanted}")
    common = COMMON.format(name=plan.name, environment="\n".join(exports(node_environment())))
    head_options = [
        "--head",
        "--port=6379",
        f"--node-ip-address={head}",
        "--num-cpus=0",
        "--num-gpus=0",
        '--autoscaling-config="$HOME/ray_bootstrap_config.yaml"',
    ]
    return TEMPLATE.format(
        name=plan.name,
        fleet=plan.clients,
        command=command,
        head=head,
        worker_ips="\n".join(f"    - {ip}  # {group.device}" for ip, group in zip(workers, kinds, strict=True)),
        user=user,
        workers=len(workers),
        head_command=_indented(common + START.format(options=" ".join(head_options))),
        worker_command=_indented(common + _machines(workers, kinds) + START.format(options=WORKER_OPTIONS)),
    )


#: `set --` in the map has put the machine's own options into "$@".
WORKER_OPTIONS = '--address="$RAY_HEAD_IP:6379" --node-ip-address="$mine" --num-gpus=0 "$@"'


def _machines(workers: Sequence[str], kinds: Iterable[NodeGroup]) -> str:
    hosts_of: dict[NodeGroup, list[str]] = {}
    for ip, group in zip(workers, kinds, strict=True):
        hosts_of.setdefault(group, []).append(ip)
    cases = [
        f"    {' | '.join(own)})  # {group.device}\n"
        f"      mine=$ip\n"
        f"      set -- {' '.join(resource_options(group))}\n"
        f"      ;;"
        for group, own in hosts_of.items()
    ]
    return MACHINES.format(cases="\n".join(cases))


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.rstrip("\n").split("\n"))
