"""What a calibration says: the device file with its sources, and the cost model's predictions beside the timings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fedknow_ray.experiment.calibration import Calibration
from fedknow_ray.experiment.calibration_networks import Role
from fedknow_ray.experiment.calibration_target import Target
from fedknow_ray.experiment.step_timing import StepTiming
from fedknow_ray.simulation.calibrated_profile import Reading, profile_content, profile_text
from fedknow_ray.simulation.calibration import prediction_error
from fedknow_ray.simulation.device import Device, parse_device
from fedknow_ray.units import format_bytes

#: Below this share of its threads' time a calibration was disturbed.
UNDISTURBED = 0.95


@dataclass(frozen=True, slots=True)
class Prediction:
    """A network's seconds a step by the cost model with the written profile, beside those that it took."""

    network: str
    kind: str
    held_out: bool
    measured_s: float
    predicted_s: float
    error_percent: float
    """(predicted - measured) / measured, in per cent: above 0 where the model is too slow."""
    least_s: float
    most_s: float
    """The least and the most that a step took, over the blocks, of which `measured_s` is the median."""
    flops: int


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """The device with its file's text, and how well it predicts."""

    calibration: Calibration
    target: Target
    date: str
    device: Device
    text: str
    predictions: tuple[Prediction, ...]

    @property
    def held_out(self) -> tuple[Prediction, ...]:
        """Return the predictions of networks that played no part in the fit."""
        return tuple(prediction for prediction in self.predictions if prediction.held_out)

    @property
    def disturbed(self) -> str | None:
        """Return what to say of a machine that was busy with something else, or None."""
        share = self.calibration.cpu_share
        if share >= UNDISTURBED:
            return None
        return f"the machine was busy: calibration had its processors for {100 * share:.0f} % of the time"

    def as_json(self) -> dict[str, Any]:
        """Return the object that the command prints: plain values, seconds, bytes, watts and per cent."""
        host = self.calibration.host
        return {
            "device": self.device.name,
            "path": str(self.target.path),
            "date": self.date,
            "torch": self.calibration.torch_version,
            "threads": self.calibration.threads,
            "cpu_share": self.calibration.cpu_share,
            "processor": host.processor,
            "figures": {key: figure.value for key, figure in self.device.figures.items()},
            "matmul_flops_per_s": host.matmul_flops_per_s,
            "memory": asdict(host.bandwidth),
            "storage": asdict(host.storage),
            "power": {"idle_w": host.idle_w, "busy_w": host.busy_w, "source": host.power_source},
            "networks": [asdict(prediction) for prediction in self.predictions],
            "prediction_error_percent": worst(self.held_out).error_percent,
        }


def make_report(calibration: Calibration, target: Target, date: str) -> CalibrationReport:
    """Return the report of a calibration made on a *date*; the predictions are of the numbers as the file has them."""
    readings, how = _readings(calibration, date), _how(calibration, date)
    title = f"{calibration.host.processor}, {_threads(calibration.threads)}"
    content = profile_content(target.name, title, calibration.fit, how, readings)
    device = parse_device(content, str(target.path))
    predictions = tuple(_predict(timing, device) for timing in calibration.timings)
    report = CalibrationReport(calibration, target, date, device, "", predictions)
    text = profile_text(content, _remarks(report))
    return CalibrationReport(calibration, target, date, device, text, predictions)


def worst(predictions: tuple[Prediction, ...]) -> Prediction:
    """Return the prediction that is farthest off."""
    return max(predictions, key=lambda prediction: abs(prediction.error_percent))


def _predict(timing: StepTiming, device: Device) -> Prediction:
    error = prediction_error(timing.step, device)
    return Prediction(
        network=str(timing.workload),
        kind=timing.step.kind,
        held_out=timing.workload.role == "held_out",
        measured_s=timing.step.seconds,
        predicted_s=timing.step.seconds * (1 + error),
        error_percent=100 * error,
        least_s=min(timing.seconds),
        most_s=max(timing.seconds),
        flops=timing.step.work.flops,
    )


def _remarks(report: CalibrationReport) -> list[str]:
    host = report.calibration.host
    return [
        f"{_made(report.calibration, report.date)}.",
        f"Training in float32 on the processor, in {_clock(report.calibration)}.",
        *([f"Disturbed: {report.disturbed}."] if report.disturbed else []),
        "Error of the cost model's seconds a step on networks that the fit has not seen:",
        *(f"  {prediction.network}: {prediction.error_percent:+.1f} %" for prediction in report.held_out),
        f"Beside the profile: float32 matrix products {host.matmul_flops_per_s / 1e9:.1f} GFLOP/s;",
        f"  memory, triad {format_bytes(host.bandwidth.triad_bytes_per_s)}/s; storage, write "
        f"{format_bytes(host.storage.write_bytes_per_s)}/s, read {format_bytes(host.storage.read_bytes_per_s)}/s.",
    ]


def _how(calibration: Calibration, date: str) -> Mapping[str, str]:
    """Return the source of each number of the fit."""
    made = f"in {_clock(calibration)}; {_made(calibration, date)}"
    reference, usual, tiny, other = (_of(calibration, role) for role in ("reference", "usual", "tiny", "other"))
    array = format_bytes(calibration.host.bandwidth.array_bytes)
    return {
        "sustained_flops_per_s": f"{_step(reference)}, {made}",
        "memory_bandwidth_bytes_per_s": f"numpy copy of arrays of {array}, each byte read and written, {made}",
        "step_overhead_s": f"{_step(tiny)}, less the arithmetic and memory traffic, by {_items(tiny)} items, {made}",
        "utilisation.dense_cnn": "by definition, this is the network that sustained_flops_per_s was measured with",
        "utilisation.small_cnn": f"{_step(usual)}, less overhead and optimizer traffic, {made}",
        "utilisation.depthwise": f"{_step(other)}, less overhead and optimizer traffic, {made}",
    }


def _readings(calibration: Calibration, date: str) -> Mapping[str, Reading]:
    host, made = calibration.host, _made(calibration, date)
    reference = _of(calibration, "reference").workload
    files = host.storage
    slower = min(files.write_bytes_per_s, files.read_bytes_per_s)
    read = "read after the kernel was asked to drop it" if files.dropped else "read from the kernel's cache"
    return {
        "memory_bytes": Reading(host.memory_bytes, f"memory that one more process could have; {made}"),
        "idle_w": Reading(host.idle_w, f"{host.power_source}, while calibration rested; {made}"),
        "busy_w": Reading(host.busy_w, f"{host.power_source}, while it trained {reference}; {made}"),
        "storage_bandwidth_bytes_per_s": Reading(
            slower, f"the slower of a file written with fsync and {read}, in the folder of this file; {made}"
        ),
    }


def _of(calibration: Calibration, role: Role) -> StepTiming:
    return next(timing for timing in calibration.timings if timing.workload.role == role)


def _step(timing: StepTiming) -> str:
    step = timing.step
    return f"{timing.workload}: {step.seconds:.4g} s a training step of {step.work.flops / 1e9:.4g} GFLOP"


def _items(timing: StepTiming) -> int:
    return sum(item.count for item in timing.step.work.items)


def _made(calibration: Calibration, date: str) -> str:
    return f"fedknow-ray calibrate, {date}, torch {calibration.torch_version}, {_threads(calibration.threads)}"


def _clock(calibration: Calibration) -> str:
    return "processor seconds" if calibration.threads == 1 else "seconds that passed"


def _threads(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"
