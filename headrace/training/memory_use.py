"""What this process holds of memory, and held at most, by the kernel's own count; Linux alone."""

from pathlib import Path

_STATUS = Path("/proc/self/status")


def resident_mb() -> float:
    """Resident memory now, in MB of 2**20 bytes as the kernel counts; pages of mapped files included."""
    return _field("VmRSS")


def peak_resident_mb() -> float:
    """The most that was ever resident."""
    return _field("VmHWM")


def _field(name: str) -> float:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024
