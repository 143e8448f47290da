"""Adds other installed packages' commands, found through the entry point group `headrace.commands`.

    [project.entry-points."headrace.commands"]
    queue = "headrace_dagster.queue_views.queue_command:queue"

The value is a `typer.Typer` with one command, or with several, which become a group; its name is the entry point's. Its
module is imported to list help, and for any command that is not Headrace's own: it should import only typer.
"""

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer

from headrace.errors import InvalidInput

COMMANDS = "headrace.commands"


def plugged_in_commands() -> dict[str, Any]:
    """Commands by name, sorted. One that fails to load reports that when it is used, without harm to the others."""
    found = sorted(entry_points(group=COMMANDS), key=lambda point: point.name)
    return {point.name: _command(point) for point in found}


def _command(point: EntryPoint) -> Any:
    try:
        loaded = point.load()
    except (ImportError, AttributeError) as error:
        loaded = _alone(_complaint(point, f"it does not load ({error})"))
    if not isinstance(loaded, typer.Typer):
        loaded = _alone(_complaint(point, f"{point.value} is no typer.Typer, got {type(loaded).__name__}"))
    command: Any = typer.main.get_command(loaded)
    command.name = point.name
    return command


def _complaint(point: EntryPoint, reason: str) -> Callable[[], None]:
    def complain() -> None:
        package = point.dist.name if point.dist else point.module
        raise InvalidInput(f"The command {point.name} comes from {package}, and {reason}: install {package} again.")

    complain.__doc__ = f"Cannot be used: {reason}."
    return complain


def _alone(function: Callable[..., None]) -> typer.Typer:
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    # Accepts any arguments, since they are not what is wrong.
    app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(function)
    return app
