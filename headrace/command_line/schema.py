"""`headrace schema`: prints the JSON Schema of a kind of users' file."""

from typing import Annotated, Any, Literal

import typer

from headrace.command_line.options import examples


@examples("headrace schema campaign", "headrace schema service > service.schema.json")
def schema(
    kind: Annotated[
        Literal["campaign", "recipe", "corpus", "service", "check"],
        typer.Argument(metavar="KIND", help="Kind of YAML file: campaign, recipe, corpus or service; or check."),
    ],
) -> None:
    """Print the JSON Schema (draft 2020-12) of a kind of YAML file, with the options of every installed engine.

    `check` is what `headrace check --json` prints.

    Editors use it to complete keys and underline mistakes, if the file's first line is
    `# yaml-language-server: $schema=FILE`.
    """
    from headrace.command_line.output import print_json
    from headrace.user_files.json_schema import json_schema

    print_json(json_schema(shape_of(kind), f"Headrace {kind}"))


def shape_of(kind: str) -> Any:
    """The dataclass that a kind of file is read into."""
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
    from headrace.serving.service import Service

    return Service
