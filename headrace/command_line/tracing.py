"""`headrace trace`: one row's whole origin."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.command_line.bodies.campaigns import PromptPlaceBody, TraceBody, TracedModelBody
from headrace.command_line.options import AsJson, Store, examples
from headrace.text.terminal import say

if TYPE_CHECKING:
    from headrace.generation.prompt_places import TracedPlace
    from headrace.generation.tracing import Trace, TracedModel
    from headrace.version_sets.sets import EngineSpec


@examples(
    "headrace trace 448339db59fd                          the beginning of a row_id is enough",
    "headrace trace 448339db59fd --partition '2026-11-22|glossary-03' --json",
)
def trace(
    context: typer.Context,
    row: Annotated[str, typer.Argument(metavar="ROW", help="A row's row_id, or the beginning of it.")],
    partition: Annotated[
        str | None,
        typer.Option(metavar="PARTITION", help="Search only this partition, such as 2026-11-22|glossary-03."),
    ] = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Show what one row was made from: prompt, file and line, models with digests, training data, seed, run, review.

    Reads the store, and the prompt file to see if it has changed since. A row that a newer version of its partition
    replaced is found as long as its own is kept, and so is a mirror's.
    """
    from headrace.command_line.opening import home_of, open_handoffs
    from headrace.command_line.output import print_json
    from headrace.generation.tracing import trace as find
    from headrace.store.small_objects import PassedOver

    damaged = PassedOver()
    found = find(open_handoffs(context, store), row, partition=partition, home=home_of(context), damaged=damaged)
    if as_json:
        print_json(_body(found, damaged.sentences))
    else:
        _print(found, damaged.sentences)


def _print(found: "Trace", damaged: Sequence[str]) -> None:
    from headrace.command_line.output import aligned, print_heading, print_lines
    from headrace.text.visible import one_line

    row = found.row
    say(row["row_id"], bold=True)
    print_lines(
        aligned(
            [
                ["output", one_line(row["output"]) or f"none: {row['error']}"],
                ["prompt", one_line(row["prompt"])],
                ["sealed in", f"{found.content.label}, row {row['position']}, {found.content.manifest.created_at}"],
                ["prompt file", _place_text(found)],
                ["made from", found.prompts.label if found.prompts else "prompts that are gone"],
                ["seed", str(row["seed"])],
                ["version set", f"{row['version_set']}{f' ({found.version_set.label})' if found.version_set else ''}"],
                ["run", _run_text(found)],
                ["review", _review_text(found)],
                ["now", _standing(found)],
            ]
        )
    )
    for model in found.models:
        print_heading(model.member.role)
        engine = found.version_set.engine_of(model.member.role) if found.version_set else None
        print_lines(aligned(model_facts(model, engine)))
    print_lines([f"Passed over: {one}" for one in damaged])


def _place_text(found: "Trace") -> str:
    if (place := found.place) is None:
        return "unknown: the prompts were listed before places were kept, or their record is gone"
    where = f"{place.path}:{place.number}" if place.unit == "line" else f"{place.path}, row {place.number}"
    return where + {"unchanged": "", "changed": ", which has changed since", "gone": ", which is gone"}[place.now]


def _standing(found: "Trace") -> str:
    if found.is_mirrored:
        compared = found.comparison
        return "mirrored, never published" + (f": compare {compared['published_row_id']}" if compared else "")
    if found.is_in_newest is None:
        return "unknown: the newest version of its partition cannot be read"
    return f"replaced by {found.replaced_by.label}" if found.replaced_by else "in the newest version"


def _run_text(found: "Trace") -> str:
    made = found.execution
    if made is None:
        return found.content.manifest.run_id
    retries = f", {made['retries']} retries" if made["retries"] else ""
    same = "the same bytes again" if made["deterministic"] else "other bytes if made again"
    return f"{made['run_id']} on {made['host']}, attempt {made['attempt']}{retries}, {made['seconds']:.2f} s, {same}"


def _review_text(found: "Trace") -> str:
    if compared := found.comparison:
        mine, theirs = (_verdict(compared[f"{whose}_rejected_by"]) for whose in ("mirrored", "published"))
        return f"{mine}; the published row: {theirs}"
    if found.review is None:
        return "not reviewed, or another version is"
    return _verdict(found.review["rejected_by"])


def _verdict(rejected_by: Sequence[str]) -> str:
    return f"rejected by {', '.join(rejected_by)}" if rejected_by else "kept"


def model_facts(model: "TracedModel", engine: "EngineSpec | None") -> list[list[str]]:
    member, registered = model.member, model.registered
    facts = [
        ["model", f"{member.model_name} version {member.model_version}"],
        ["weights", member.weights_digest],
    ]
    if not member.is_registered and engine is not None and engine.name == "echo":
        return [facts[0], ["training", "none: the engine echo writes without a model"]]
    if not member.is_registered:
        return [*facts, ["training", "unknown: a server's own model"]]
    if registered is None:
        return [*facts, ["training", "unknown: its registration is not in this store"]]
    if registered.kind == "base":
        return [*facts, ["training", "none here: a base model"]]
    data = ", ".join(model.training_inputs) or "data that is gone"
    return [*facts, ["training", f"recipe {registered.recipe}, MLflow run {registered.mlflow_run_id}, on {data}"]]


def _place(place: "TracedPlace") -> PromptPlaceBody:
    return PromptPlaceBody(file=place.file, number=place.number, unit=place.unit, now=place.now)


def _body(found: "Trace", damaged: Sequence[str]) -> TraceBody:
    models = [
        TracedModelBody(
            role=model.member.role,
            model=model.member.model_name,
            version=model.member.model_version,
            weights_digest=model.member.weights_digest,
            kind=model.registered.kind if model.registered else None,
            recipe=model.registered.recipe if model.registered else None,
            mlflow_run_id=model.registered.mlflow_run_id if model.registered else None,
            training_inputs=dict(model.training_inputs),
        )
        for model in found.models
    ]
    return TraceBody(
        row=dict(found.row),
        partition=found.content.partition,
        version=found.content.version,
        sealed_at=found.content.manifest.created_at,
        prompt=dict(found.prompt) if found.prompt else None,
        prompts_version=found.prompts.version if found.prompts else None,
        place=_place(found.place) if found.place else None,
        run=dict(found.execution) if found.execution else None,
        review=dict(found.review) if found.review else None,
        is_mirrored=found.is_mirrored,
        comparison=dict(found.comparison) if found.comparison else None,
        version_set=found.version_set.for_people() if found.version_set else None,
        models=tuple(models),
        replaced_by=found.replaced_by.version if found.replaced_by else None,
        is_in_newest=found.is_in_newest,
        damaged=tuple(damaged),
    )
