"""`headrace schema`: prints the JSON Schema of a kind of users' file."""

from typing import Annotated, Any, Literal

import typer

from headrace.command_line.options import examples


@examples("headrace schema campaign", "headrace schema service > service.schema.json")
def schema(
    kind: Annotated[
        Literal["campaign", "recipe", "corpus", "service"], typer.Argument(metavar="KIND", help="Kind of YAML file.")
    ],
) -> None:
    """Print the JSON Schema (draft 2020-12) of a kind of YAML file, with the options of every installed engine.

    Editors use it to complete keys and underline mistakes, if the file's first line is
    `# yaml-language-server: $schema=FILE`.
    """
    from headrace.command_line.output import print_json
    from headrace.user_files.json_schema import json_schema

    print_json(json_schema(_shape(kind), f"Headrace {kind}"))


def _shape(kind: str) -> Any:
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
    from headrace.serving.service import Service

    return Service
