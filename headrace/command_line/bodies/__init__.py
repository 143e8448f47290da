"""What commands print with `--json`: `headrace schema KIND` describes it. Fields are added, never renamed."""

from collections.abc import Mapping
from importlib import import_module

_WHERE: Mapping[str, str] = {
    "preview": "campaigns:PreviewBody",
    "run": "campaigns:RunBody",
    "trace": "campaigns:TraceBody",
    "status": "project_status:StatusBody",
    "model": "models:ModelsBody",
}
KINDS = ("check", *_WHERE)
"""Each is the command's words with hyphens between them: what `headrace handoff ls` prints is `handoff-ls`."""


def body_of(kind: str) -> type:
    """The dataclass that the command's output is written from. One kind's import must not wait for all others'."""
    if kind == "check":
        from headrace.command_line.checking.report import CheckReport

        return CheckReport
    module, _, name = _WHERE[kind].partition(":")
    return getattr(import_module(f"{__name__}.{module}"), name)
