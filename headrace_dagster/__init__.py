"""Headrace for any Dagster project: the classes that a dagster.yaml or a project names, loaded on demand."""

from importlib import import_module
from typing import Any

_WHERE = {
    "GpuRunCoordinator": "headrace_dagster.coordinator.run_coordinator",
    "GpuRunLauncher": "headrace_dagster.launchers.gpu_launcher",
    "GpuK8sRunLauncher": "headrace_dagster.launchers.gpu_k8s_launcher",
    "ProcessRunLauncher": "headrace_dagster.launchers.process_launcher",
    "ArrowHandoffIOManager": "headrace_dagster.handoff_io",
    "Campaign": "headrace_dagster.components.campaign",
}

__all__ = list(_WHERE)  # pyright: ignore[reportUnsupportedDunderAll] (a type checker cannot follow `__getattr__`)


def __getattr__(name: str) -> Any:
    # The daemon loads its coordinator through this package, and must not import Arrow for that.
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    # `dg` looks here for Components, and opens every name: of ours only that one, not the launchers with their clients.
    return sorted([*globals(), "Campaign"])
