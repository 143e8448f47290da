"""`headrace schema`: prints the JSON Schema of a kind of users' file, or of what a command prints."""

from typing import Annotated, Any

import typer

from headrace.command_line.bodies.kinds import KINDS, body_of
from headrace.command_line.opening import nearest
from headrace.command_line.options import examples
from headrace.errors import InvalidInput

FILES = ("campaign", "recipe", "corpus", "images", "service")
_HELP = f"A kind of YAML file ({', '.join(FILES)}), or the command whose --json it is ({', '.join(KINDS)})."


@examples("headrace schema campaign", "headrace schema handoff-ls", "headrace schema service > service.schema.json")
def schema(
    kind: Annotated[str | None, typer.Argument(metavar="KIND", help=_HELP, show_default=False)] = None,
) -> None:
    """Print the JSON Schema (draft 2020-12) of a kind of YAML file, with the options of every installed engine; or of
    what a command prints with --json. Without a KIND, list the kinds.

    Editors use it to complete keys and underline mistakes, if the file's first line is
    `# yaml-language-server: $schema=FILE`.
    """
    from headrace.command_line.output import print_json, print_lines
    from headrace.user_files.json_schema import json_schema

    known = [*FILES, *KINDS]
    if kind is None:
        print_lines(known)
        return
    if kind not in known:
        raise InvalidInput(f"There is no schema {kind!r}.{nearest(kind, known)}")
    print_json(json_schema(shape_of(kind), f"Headrace {kind}"))


def shape_of(kind: str) -> Any:
    """The dataclass that a kind of file is read into, or a command's output is written from."""
    if kind in KINDS:
        return body_of(kind)
    # Imported separately: a corpus imports polars.
    if kind == "campaign":
        from headrace.generation.campaign import Campaign

        return Campaign
    if kind == "recipe":
        from headrace.training.recipe import Recipe

        return Recipe
    if kind == "corpus":
        from headrace.prep.corpus import Corpus

        return Corpus
    if kind == "images":
        from headrace.prep.images.corpus import ImageCorpus

        return ImageCorpus
    from headrace.serving.service import Service

    return Service
