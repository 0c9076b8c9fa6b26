"""Whether this host computes quickly in the precision that a config asks for."""

from __future__ import annotations

from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
#: What oneDNN, which torch hands products and convolutions to, wants of an x86 processor for bfloat16; else torch's own
#: loops are used: a step of cnn6 then took more than 50 times as long as in float32 (AMD EPYC of 2017, torch 2.14.1).
_X86_FLAGS = frozenset({"avx512bw", "avx512vl", "avx512dq"})
_ARM_FLAG = "bf16"


def has_quick_bfloat16(cpu_info: str) -> bool:
    """Return whether a processor is quick with bfloat16, by the text of /proc/cpuinfo."""
    for line in cpu_info.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            flags = set(value.split())
            return flags >= _X86_FLAGS or _ARM_FLAG in flags
    return False


def precision_warning(precision: str, cpu_info: Path = CPU_INFO) -> str | None:
    """Return what a user should know before a run starts; None where nothing is amiss, or nothing is known."""
    if precision != "bfloat16" or not cpu_info.is_file() or has_quick_bfloat16(cpu_info.read_text(encoding="utf-8")):
        return None
    return (
        "training.precision is bfloat16, but this processor has no instructions for it (AVX-512, or bf16 on ARM): "
        "training takes some 50 times as long as with float32"
    )
