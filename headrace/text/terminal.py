"""The only output to a person's terminal: shows control characters, and treats no text as markup.

Plain lines go through `say`, questions through `confirmed` and `answered`, drawings of rich through
`headrace.text.drawing`. Nothing else prints (ruff refuses it): a journal's reason, a file's first row or an engine's
error must not move the cursor, colour the screen or look like our own line.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from headrace.errors import InvalidInput
from headrace.text.visible import visible_lines


def say(
    text: str = "", *, bold: bool = False, colour: str | None = None, error: bool = False, goes_on: bool = False
) -> None:
    """Prints lines, on standard error with `error`; with `goes_on`, the next output continues the line."""
    typer.secho(visible_lines(text), bold=bold or None, fg=colour, err=error, nl=not goes_on)


def answered(question: str) -> str:
    """What a person at the terminal types, without blanks around it; asks on standard error until it is something.

    Raises:
        InvalidInput: the input ends first (Ctrl-D).
    """
    with _asking():
        while not (answer := typer.prompt(visible_lines(question), err=True).strip()):
            pass
    return answer


def confirmed(question: str) -> bool:
    """Whether a person at the terminal says yes; asks on standard error.

    Raises:
        InvalidInput: the input ends first (Ctrl-D).
    """
    with _asking():
        return typer.confirm(visible_lines(question), err=True)


@contextmanager
def _asking() -> Iterator[None]:
    """Keeps apart what typer takes for one: a person who interrupts, and an input that ends."""
    try:
        yield
    except typer.Abort as error:
        say(error=True)
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise InvalidInput("The question was not answered, so nothing was done.") from error
