"""docs/devices.md tells what the device files say.

To write it anew: python tests/simulation/test_devices_document.py
"""

from pathlib import Path

from fedknow_ray.simulation.device import FIGURES, NETWORK_KINDS, Device
from fedknow_ray.simulation.device_library import DeviceLibrary

DOCUMENT = Path(__file__).parents[2] / "docs" / "devices.md"
KEYS = ("memory_bytes", "sustained_flops_per_s", *(f"utilisation.{kind}" for kind in NETWORK_KINDS), *FIGURES[2:])
COLUMNS = {
    "memory_bytes": ("memory, GiB", 2.0**30),
    "sustained_flops_per_s": ("training, GFLOP/s", 1e9),
    "utilisation.dense_cnn": ("dense_cnn", 1.0),
    "utilisation.small_cnn": ("small_cnn", 1.0),
    "utilisation.depthwise": ("depthwise", 1.0),
    "memory_bandwidth_bytes_per_s": ("memory, GB/s", 1e9),
    "storage_bandwidth_bytes_per_s": ("storage, MB/s", 1e6),
    "idle_w": ("idle, W", 1.0),
    "busy_w": ("busy, W", 1.0),
    "step_overhead_s": ("step overhead, ms", 1e-3),
}
OPENING = """\
# Devices

The profiles in `fedknow_ray/simulation/devices`, one YAML file a device. `est.` marks an estimate, `-` a number that is
not known: what needs it refuses, and `energy_j` is null without both wattages. `fedknow_ray/simulation/cost.py` has the
formula that uses them. A multiply-add is two FLOPs. The three columns of kinds of network are the share of the training
rate that such a network reaches.

Devices of your own stand beside these: `devices_path: FOLDER` in the config; see
[CONTRIBUTING.md](../CONTRIBUTING.md#add-a-device-in-one-yaml-file).

This page is written from the files (`python tests/simulation/test_devices_document.py`) and a test compares them.
"""


def cell(device: Device, key: str) -> str:
    figure = device.figures.get(key)
    if figure is None:
        return "-"
    return f"{figure.value / COLUMNS[key][1]:.4g}" + (" est." if figure.basis == "estimated" else "")


def table(devices: list[Device]) -> list[str]:
    rows = [f"| `{device.name}` | " + " | ".join(cell(device, key) for key in KEYS) + " |" for device in devices]
    head = "| device | " + " | ".join(COLUMNS[key][0] for key in KEYS) + " |"
    return [head, "|---" * (len(KEYS) + 1) + "|", *rows]


def sources(device: Device) -> list[str]:
    lines = ["", f"## {device.title} (`{device.name}`, {device.accelerator})"]
    for key in KEYS:
        if figure := device.figures.get(key):
            formula = f"{figure.formula}. From: " if figure.formula else ""
            lines.append(f"- `{key}` = {figure.value:,.12g}, {figure.basis}: {formula}{figure.source}.")
    return lines


def render() -> str:
    library = DeviceLibrary()
    devices = [library.get(name) for name in library.names()]
    lines = [OPENING, *table(devices), *(line for device in devices for line in sources(device))]
    return "\n".join(lines) + "\n"


def test_document_agrees_with_the_device_files():
    assert DOCUMENT.read_text(encoding="utf-8") == render()


if __name__ == "__main__":
    DOCUMENT.write_text(render(), encoding="utf-8")
