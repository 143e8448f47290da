"""The one way to a person's terminal: characters that steer it are shown, and no text is taken for markup.

Plain lines go through `say`, questions through `confirmed`; what rich draws, through `headrace.text.drawing`. Nothing
else prints (ruff refuses it): a journal's reason, a file's first row or an engine's error must not move the cursor,
colour the screen or look like a line of ours.
"""

import typer

from headrace.text.visible import visible_lines


def say(
    text: str = "", *, bold: bool = False, colour: str | None = None, error: bool = False, goes_on: bool = False
) -> None:
    """Print lines, on standard error with `error`; with `goes_on`, what is said next stands behind them."""
    typer.secho(visible_lines(text), bold=bold or None, fg=colour, err=error, nl=not goes_on)


def confirmed(question: str) -> bool:
    """Whether somebody at the terminal says yes; asked on standard error."""
    return typer.confirm(visible_lines(question), err=True)
