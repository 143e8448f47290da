"""Arguments and options that several commands of `headrace rollout` share."""

from pathlib import Path
from typing import Annotated

import typer

from headrace.errors import InvalidInput


def _share(text: str) -> float:
    """`0.1` or `10%`."""
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        share = float("nan")
    if not 0 <= share <= 1:
        raise InvalidInput(f"--weight is a share of the units, such as 0.1 or 10%, got {text!r}.")
    return share


Name = Annotated[str, typer.Argument(metavar="NAME", help="The campaign or service whose rollout it is.")]
SomeName = Annotated[
    str | None, typer.Argument(metavar="NAME", help="One rollout; all of them without.", show_default=False)
]
By = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who does it, for the journal. Default: you.")]
Reason = Annotated[
    str | None, typer.Option("--reason", "-m", metavar="TEXT", help="Why, for the journal.", show_default=False)
]
PlanFile = Annotated[
    Path | None,
    typer.Option("--plan", metavar="FILE", help="The campaign's or service's YAML file: its steps, caps and gates."),
]
Weight = Annotated[
    float | None, typer.Option("--weight", metavar="SHARE", parser=_share, help="Share of the units: 0.1 or 10%.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
