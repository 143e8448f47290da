"""Every command of `headrace` with its options and examples, plugged-in ones too, and programs run by `python -m`."""

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import typer

from headrace.command_line.main import app
from pipelines.reference.markdown import code, page, prose, table

# Imported when they are asked for: the first comes with the extra `serve`.
PROGRAMS = ("headrace.serving.gateway", "headrace.engines.host")
# Said once for all of them.
_OF_ALL = {"help", "install_completion", "show_completion"}
# Two columns of an example: the command, and what it is for.
_ANNOTATED = re.compile(r"(.*?\S) {3,}(\S.*)")


def commands_page() -> str:
    sections = [_section(words, command, context) for words, command, context in commands()]
    return page(
        "Commands",
        "`headrace --help`, and `--help` after each command, print the same. Exit codes: 0; 1 damaged, different, or "
        "failed; 2 a wrong request, explained in one sentence on stderr; 130 interrupted.",
        *sections,
    )


def commands() -> Iterator[tuple[str, Any, Any]]:
    """The words, the command and its context: the program itself, then each group before its commands."""
    yield from _below("headrace", typer.main.get_command(app), None)
    for module in PROGRAMS:
        yield from _below(f"python -m {module}", program_command(module), None)


def program_command(module: str) -> Any:
    program = typer.Typer(add_completion=False, rich_markup_mode=None)
    program.command()(import_module(f"{module}.__main__").main)
    return typer.main.get_command(program)


def _below(words: str, command: Any, parent: Any) -> Iterator[tuple[str, Any, Any]]:
    context = command.context_class(command, info_name=words.rpartition(" ")[2], parent=parent)
    yield words, command, context
    if hasattr(command, "list_commands"):
        for name in sorted(command.list_commands(context)):
            yield from _below(f"{words} {name}", command.get_command(context, name), context)


def _section(words: str, command: Any, context: Any) -> str:
    help_text, _, own_examples = (command.help or "").partition("\b")
    # A metavar may have brackets of its own.
    arguments = " ".join(command.collect_usage_pieces(context)).replace("[[", "[").replace("]]", "]")
    parts = [
        f"## {words}",
        f"```text\n{words} {arguments}\n```",
        *(prose(paragraph) for paragraph in help_text.split("\n\n")),
    ]
    if hasattr(command, "list_commands"):
        names = sorted(command.list_commands(context))
        parts.append("Commands: " + ", ".join(f"[{code(name)}](#{_anchor(f'{words} {name}')})" for name in names) + ".")
    if rows := [_parameter(one, context) for one in command.params if not _is_left_out(one)]:
        parts.append(table(["argument or option", "value", "default", ""], rows))
    if lines := example_lines((command.epilog or "") + own_examples):
        parts.append("\n".join(["```sh", *lines, "```"]))
    return "\n\n".join(filter(None, parts))


def example_lines(epilog: str) -> list[str]:
    """The examples as a shell takes them: what is said beside one becomes a comment."""
    lines = [line.strip() for line in epilog.splitlines()]
    examples = [line for line in lines if line and line not in ("\b", "Examples:")]
    return [_ANNOTATED.sub(r"\1  # \2", line) for line in examples if "headrace " in line and "--help" not in line]


def _parameter(parameter: Any, context: Any) -> list[str]:
    is_argument = parameter.param_type_name == "argument"
    words = [piece.strip("[]{}.") for piece in parameter.get_usage_pieces(context)]
    names = words if is_argument else [*parameter.opts, *parameter.secondary_opts]
    is_flag = getattr(parameter, "is_flag", False)
    value = "" if is_argument or is_flag else code(parameter.display_type_rich(context))
    text = prose(getattr(parameter, "help", None) or "")
    if parameter.envvar:
        text += f" Variable: {code(str(parameter.envvar))}."
    if getattr(parameter, "multiple", False):
        text += " May be repeated."
    return [", ".join(map(code, names)), value, _default(parameter), text.strip()]


def _default(parameter: Any) -> str:
    if parameter.required:
        return "**required**"
    default = parameter.default
    if default is None or default is False or default == () or callable(default):
        return ""
    return code(str(default))


def _is_left_out(parameter: Any) -> bool:
    return parameter.name in _OF_ALL or getattr(parameter, "hidden", False)


def _anchor(heading: str) -> str:
    return heading.replace(" ", "-")
