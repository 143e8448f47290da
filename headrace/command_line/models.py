"""`headrace model`: registered versions, how to load one, a copy of its files, and what versions share."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.command_line.bodies.models import IndexBody, IndexedWeightsBody, ModelsBody, ShownModelBody
from headrace.command_line.options import AsJson, Store, examples
from headrace.errors import InvalidInput
from headrace.keys import HELDOUT_LOSS
from headrace.text.terminal import say

if TYPE_CHECKING:
    from headrace.registry.model_versions import ModelVersion
    from headrace.store.objects import ObjectStore

Version = Annotated[str, typer.Argument(metavar="NAME:VERSION", help="A registered version; NAME alone: the newest.")]


@examples("headrace model ls", "headrace model ls smollm2-135m --json")
def ls(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only this model's versions.")] = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """List registered model versions with what they were made from. Reads the store; does not ask MLflow."""
    from headrace.command_line.opening import open_objects
    from headrace.command_line.output import print_json, print_table

    objects = open_objects(context, store)
    found = [one for one in _registered(objects) if name in (None, one.model_name)]
    indexed = _indexed(objects, found)
    if as_json:
        print_json(ModelsBody(models=tuple(found), indexed=tuple(indexed.values())))
        return
    if not found:
        say("No model is registered yet: headrace run does so with a campaign's weights, a recipe's training too.")
        return
    rows = [
        [
            f"{one.model_name}:{one.version}",
            one.kind,
            one.recipe,
            _measured(one),
            one.weights_digest[:12],
            _own_bytes(indexed.get(one.weights_digest)),
        ]
        for one in found
    ]
    columns = ["MODEL", "KIND", "RECIPE", "HELD-OUT LOSS", "WEIGHTS", "OWN BYTES"]
    if not indexed:
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    print_table(columns, rows, right=["HELD-OUT LOSS", "OWN BYTES"] if indexed else ["HELD-OUT LOSS"])
    if indexed:
        say(_saved_sentence([*indexed.values()]))


@examples("headrace model show smollm2-135m:2")
def show(context: typer.Context, version: Version, store: Store = None, as_json: AsJson = False) -> None:
    """Show where a version's files are, and the line of Python that loads them."""
    from headrace.adapters.sealed import open_weights
    from headrace.command_line.opening import open_objects
    from headrace.command_line.output import aligned, print_json, print_lines

    objects = open_objects(context, store)
    found = _find(objects, version)
    opened = open_weights(objects, found.weights_digest)
    directory = opened.directory
    is_pipeline = (directory / "model_index.json").is_file()
    opener = "diffusers.DiffusionPipeline" if is_pipeline else "transformers.AutoModelForCausalLM"
    line = f"{opener}.from_pretrained({str(opened.model)!r})"
    if opened.base:
        line = f"peft.PeftModel.from_pretrained({line}, {str(directory)!r})"
    if as_json:
        base = str(opened.base) if opened.base else None
        print_json(ShownModelBody(model=found, directory=str(directory), load=line, base=base))
        return
    say(f"{found.model_name}:{found.version}", bold=True)
    facts = [
        ["kind", found.kind],
        *([["recipe", found.recipe]] if found.recipe else []),
        ["weights", found.weights_digest],
        ["files", str(directory)],
        *([["adapter on", str(opened.base)]] if opened.base else []),
        ["MLflow run", found.mlflow_run_id],
        ["load it with", line],
    ]
    print_lines(aligned(facts))


@examples("headrace model export smollm2-135m:2 my-model", "headrace model export smollm2-135m:3 whole --merged")
def export(
    context: typer.Context,
    version: Version,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The directory to make.")],
    merged: Annotated[
        bool, typer.Option("--merged", help="Add an adapter to its base's weights: a whole model, opened without peft.")
    ] = False,
    store: Store = None,
) -> None:
    """Copy a version's files, verified, into a directory that transformers, vLLM and others open."""
    from headrace.adapters.sealed import open_weights
    from headrace.command_line.handoff.exporting import refuse_stdout
    from headrace.command_line.opening import open_objects
    from headrace.command_line.output import bytes_text
    from headrace.store.whole_files import made_when_whole

    refuse_stdout(directory, "A model")
    objects = open_objects(context, store)
    found = _find(objects, version)
    opened = open_weights(objects, found.weights_digest)
    if merged and not opened.base:
        raise InvalidInput(
            f"--merged is for adapters, and {found.model_name}:{found.version} is a whole model. Leave it out."
        )
    with made_when_whole(directory) as partial:
        if merged:
            from headrace.training.lora_merging import merge_adapters

            merge_adapters(opened, partial)
        else:
            _copy(opened.directory, partial)
    num_bytes = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    say(f"{directory}: {bytes_text(num_bytes)} of {found.model_name}:{found.version}.", error=True)


def _copy(source: Path, directory: Path) -> None:
    for file in (one for one in source.rglob("*") if one.is_file()):
        copied = directory / file.relative_to(source)
        copied.parent.mkdir(parents=True, exist_ok=True)
        # Not its mode: sealed files are read-only, and a copy is its owner's.
        shutil.copyfile(file, copied)


@examples("headrace model index --all", "headrace model index smollm2-135m:2")
def index(
    context: typer.Context,
    version: Annotated[
        str | None, typer.Argument(metavar="[NAME:VERSION]", help="A registered version; NAME alone: the newest.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every registered version that is sealed here.")] = False,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Put a version's tensors into segments that versions share, so that what they have in common is stored once.

    What is handed out, and its digest, stays the same. The whole files stay too, until `headrace gc` takes them, once
    nobody has opened them for a day. In a remote store, registration does this by itself.
    """
    from headrace.command_line.opening import open_objects
    from headrace.command_line.output import print_json
    from headrace.store.indexing import index_directory
    from headrace.store.sealed_directory import find_directory

    if every == (version is not None):
        raise InvalidInput("Name one version, or pass --all for every registered one.")
    objects = open_objects(context, store)
    chosen = _registered(objects) if every else [_find(objects, version or "")]
    for digest in dict.fromkeys(one.weights_digest for one in chosen):
        # Of all, those whose files were collected are passed over.
        if not every or find_directory(objects, digest):
            index_directory(objects, digest)
    indexed = tuple(_indexed(objects, chosen).values())
    if as_json:
        print_json(IndexBody(indexed=indexed))
        return
    say(_saved_sentence(indexed) if indexed else "Nothing is sealed here to be indexed.")


def _indexed(objects: "ObjectStore", models: "list[ModelVersion]") -> dict[str, IndexedWeightsBody]:
    """By digest of the weights, those of these versions that are indexed."""
    from dataclasses import asdict

    from headrace.store.indexing import saved
    from headrace.store.small_objects import PassedOver

    wanted = {one.weights_digest for one in models}
    return {
        digest: IndexedWeightsBody(weights_digest=digest, **asdict(one))
        for digest, one in saved(objects, damaged=PassedOver()).items()
        if digest in wanted
    }


def _own_bytes(indexed: IndexedWeightsBody | None) -> str:
    from headrace.command_line.output import bytes_text

    return f"{bytes_text(indexed.own_bytes)} of {bytes_text(indexed.num_bytes)}" if indexed else "not indexed"


def _saved_sentence(indexed: Sequence[IndexedWeightsBody]) -> str:
    from headrace.command_line.output import bytes_text, counted

    num_bytes, own = sum(one.num_bytes for one in indexed), sum(one.own_bytes for one in indexed)
    count = counted(len(indexed), "indexed directory", "indexed directories")
    share = 1 - own / max(num_bytes, 1)
    lines = [f"{count} of weights: {bytes_text(own)} in place of {bytes_text(num_bytes)}, {share:.1%} saved."]
    if whole := sum(one.num_bytes for one in indexed if one.has_whole_files):
        lines.append(f"Whole files of {bytes_text(whole)} are there too: headrace gc takes them.")
    return " ".join(lines)


def _measured(model: "ModelVersion") -> str:
    """The held-out loss; another measure with its name."""
    if model.heldout_loss is None:
        return ""
    measure = "" if model.measure == HELDOUT_LOSS else f"{model.measure} "
    return f"{measure}{model.heldout_loss:.3f}"


def _registered(objects: "ObjectStore") -> "list[ModelVersion]":
    """Every version once; a base that a recipe has evaluated, with its loss."""
    from headrace.command_line.rollout.opening import registered
    from headrace.store.small_objects import PassedOver

    found: dict[tuple[str, int], ModelVersion] = {}
    for one in registered(objects, damaged=PassedOver()):
        found.setdefault((one.model_name, int(one.version)), one)
    return [found[key] for key in sorted(found)]


def _find(objects: "ObjectStore", word: str) -> "ModelVersion":
    """Raises: InvalidInput: no version has this name."""
    from headrace.command_line.opening import nearest

    name, _, version = word.partition(":")
    known = _registered(objects)
    own = [one for one in known if one.model_name == name and version in ("", "newest", one.version)]
    if own:
        return own[-1]
    raise InvalidInput(
        f"No version {word!r} is registered.{nearest(word, [f'{one.model_name}:{one.version}' for one in known])}"
    )
