"""Options that several commands share, and how commands become groups.

A command is a function. Its name is the command's word, its parameters are the arguments and options, and its
docstring is the help. Modules of commands import only typer, so that help does not wait for Arrow.
"""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

from headrace.command_line.opening import STORE_HELP

Store = Annotated[str | None, typer.Option("--store", metavar="URL", help=STORE_HELP)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs: fields are added, never renamed.")]
Columns = Annotated[str | None, typer.Option("--columns", metavar="A,B", help="Only these columns.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite the target.")]
Verbatim = Annotated[
    bool, typer.Option("--verbatim", help="In csv, no apostrophe before texts that a spreadsheet takes for formulas.")
]
Command = TypeVar("Command", bound=Callable[..., None])
_EXAMPLES = "examples"


def examples(*lines: str) -> Callable[[Command], Command]:
    """Adds example lines below the command's help."""

    def noted(command: Command) -> Command:
        # \b makes the help formatter keep the paragraph's lines as they are.
        setattr(command, _EXAMPLES, "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines))
        return command

    return noted


def add_command(app: typer.Typer, command: Callable[..., None]) -> None:
    # `import_`: a word of Python's cannot be a function's name.
    app.command(command.__name__.removesuffix("_"), epilog=getattr(command, _EXAMPLES))(command)


def group_of(help_text: str, *commands: Callable[..., None]) -> Any:
    app = typer.Typer(help=help_text, no_args_is_help=True, rich_markup_mode=None)
    for command in commands:
        add_command(app, command)
    return app
