"""Whether a command line of the documentation is one that the program takes; nothing is run."""

import importlib.util
import re
from functools import cache
from typing import Any

import typer

from headrace.command_line.main import app
from pipelines.reference.commands import PROGRAMS, program_command
from tests.docs.blocks import CHECKOUT

# Programs of others that a block may call.
OTHERS = {
    *(".", "cat", "cd", "curl", "cut", "dagster", "echo", "export", "git", "grep", "head", "jq"),
    *("kill", "mkdir", "nats-server", "openssl", "pip", "printf", "pytest", "sha256sum", "sleep", "sort", "uniq"),
}


def refusal(words: list[str]) -> str | None:
    """Why this command is none; None: it is one."""
    program, *rest = words
    if program == "headrace":
        return _refused(_headrace(), program, rest)
    if program == "make":
        targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
        wanted = {word for word in rest if "=" not in word}
        return f"the Makefile has no {', '.join(wanted - targets)}" if wanted - targets else None
    if program == "python" and rest[:1] == ["-m"]:
        if rest[1] in PROGRAMS:
            return _refused(program_command(rest[1]), rest[1], rest[2:])
        return None if importlib.util.find_spec(rest[1]) else f"there is no module {rest[1]}"
    if program == "python" and rest == ["-"]:
        return None  # the lines that follow it in the block
    if program == "dg":
        return _refused(_dg(), program, rest)
    return None if program in OTHERS else f"nobody knows the program {program}"


@cache
def _headrace() -> Any:
    return typer.main.get_command(app)


@cache
def _dg() -> Any:
    from dagster_dg_cli.cli import create_dg_cli

    return create_dg_cli()


def _refused(command: Any, name: str, words: list[str]) -> str | None:
    """Reads the words as the program would: commands, options, the kinds of their values."""
    parent: Any = None
    while True:
        try:
            context = command.make_context(name, list(words), parent=parent)
        except Exception as error:  # noqa: BLE001 (typer brings a click of its own, dg another)
            kind = type(error).__name__
            return None if kind == "Exit" else f"{kind}: {getattr(error, 'message', '') or error}"
        words = [*getattr(context, "_protected_args", ()), *context.args]
        if not hasattr(command, "resolve_command") or not words:
            return None
        try:
            name, command, words = command.resolve_command(context, words)
        except Exception as error:  # noqa: BLE001 (as above)
            return str(getattr(error, "message", error))
        parent = context
