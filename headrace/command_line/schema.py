"""`headrace schema`: prints the JSON Schema of a kind of users' file."""

from typing import Annotated, Any, Literal

import typer

from headrace.command_line.options import examples


@examples("headrace schema campaign", "headrace schema service > service.schema.json")
def schema(
    kind: Annotated[
        Literal[
            "campaign", "recipe", "corpus", "service", "check", "preview", "run", "trace", "status", "model", "dropped"
        ],
        typer.Argument(metavar="KIND", help="Kind of YAML file, or the command whose --json it is."),
    ],
) -> None:
    """Print the JSON Schema (draft 2020-12) of a kind of YAML file, with the options of every installed engine.

    Files: campaign, recipe, corpus, service. What commands print with --json: check, preview, run, trace, status,
    model, dropped.

    Editors use it to complete keys and underline mistakes, if the file's first line is
    `# yaml-language-server: $schema=FILE`.
    """
    from headrace.command_line.output import print_json
    from headrace.user_files.json_schema import json_schema

    print_json(json_schema(shape_of(kind), f"Headrace {kind}"))


def shape_of(kind: str) -> Any:
    """The dataclass that a kind of file is read into, or a command's output is written from."""
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
    if kind == "check":
        from headrace.command_line.checking.report import CheckReport

        return CheckReport
    from headrace.command_line.bodies import BODIES

    if kind in BODIES:
        return BODIES[kind]
    from headrace.serving.service import Service

    return Service
