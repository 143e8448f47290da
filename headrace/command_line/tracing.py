"""`headrace trace`: one row's whole origin."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.command_line.bodies.campaigns import PromptPlaceBody, TraceBody, TracedModelBody, TracedPartBody
from headrace.command_line.options import AsJson, Store, examples
from headrace.text.terminal import say

if TYPE_CHECKING:
    from headrace.generation.prompt_places import TracedPlace
    from headrace.generation.tracing import Trace, TracedModel, TracedPart
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

    Of its pictures and recordings also what was asked, seed, run and digest.

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
                _origin(found),
                ["made from", found.prompts.label if found.prompts else "prompts that are gone"],
                ["seed", str(row["seed"])],
                ["version set", f"{row['version_set']}{f' ({found.version_set.label})' if found.version_set else ''}"],
                ["run", _run_text(found)],
                ["review", _review_text(found)],
                ["now", _standing(found)],
            ]
        )
    )
    parts = {part.role: part for part in found.parts}
    for model in found.models:
        print_heading(model.member.role)
        engine = found.version_set.engine_of(model.member.role) if found.version_set else None
        part = parts.pop(model.member.role, None)
        print_lines(aligned([*model_facts(model, engine), *(part_facts(part) if part else [])]))
    for part in parts.values():
        print_heading(part.role)
        print_lines(aligned(part_facts(part)))
    print_lines([f"Passed over: {one}" for one in damaged])


def _origin(found: "Trace") -> list[str]:
    from headrace.keys import ContentPartition

    part = ContentPartition.find(found.content.partition)
    if part is None or part.window is None:
        return ["prompt file", _place_text(found)]
    row = found.row
    key = f", key {row['event_key']}" if row["event_key"] else ""
    return ["event", f"{row['event_id']} of {row['event_source']}{key}"]


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
    return _making_text(found.execution) if found.execution else found.content.manifest.run_id


def _making_text(made: Mapping[str, Any]) -> str:
    retries = f", {made['retries']} retries" if made["retries"] else ""
    same = "the same bytes again" if made["deterministic"] else "other bytes if made again"
    run = f"{made['run_id']} on {made['host']}, attempt {made['attempt']}{retries}"
    if source := made.get("taken_from"):
        return f"{run}, taken from {source}, {same}"
    return f"{run}, {made['seconds']:.2f} s, {same}"


def part_facts(part: "TracedPart") -> list[list[str]]:
    from headrace.command_line.output import counted
    from headrace.text.visible import one_line

    made, item = part.making, part.item
    facts = [
        ["asked", one_line(made["asked"]) or "nothing"],
        ["seed", str(made["seed"])],
        ["run", _making_text(made)],
    ]
    if item is None or part.media is None:
        why = made["error"] or ("it is gone" if made["finish_reason"] == "stop" else made["finish_reason"])
        return [*facts, ["item", f"none: {one_line(why)}"]]
    size = f"{item['width']} × {item['height']}" if item["width"] else f"{item['duration_seconds']:.2f} s"
    told = f"{item['item_id']} of {part.media.label}, {item['media_type']}, {size}"
    return [
        *facts,
        ["item", f"{told}, {counted(item['num_bytes'], 'byte')}"],
        ["digest", f"xxh3-128 {item['xxh3_128'].hex()}"],
    ]


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
        return [facts[0], ["training", "none: the engine echo works without a model"]]
    if not member.is_registered:
        if engine is not None and engine.base_url is None:
            return [*facts, ["training", f"unknown: a model in the package of the engine {engine.name}"]]
        return [*facts, ["training", "unknown: a server's own model"]]
    if registered is None:
        return [*facts, ["training", "unknown: its registration is not in this store"]]
    if registered.kind == "base":
        return [*facts, ["training", "none here: a base model"]]
    data = ", ".join(model.training_inputs) or "data that is gone"
    return [*facts, ["training", f"recipe {registered.recipe}, MLflow run {registered.mlflow_run_id}, on {data}"]]


def _place(place: "TracedPlace") -> PromptPlaceBody:
    return PromptPlaceBody(file=place.file, number=place.number, unit=place.unit, now=place.now)


def _part(part: "TracedPart") -> TracedPartBody:
    item = {**part.item, "xxh3_128": part.item["xxh3_128"].hex()} if part.item else None
    return TracedPartBody(
        role=part.role,
        run=dict(part.making),
        item=item,
        asset=part.media.asset if part.media else None,
        version=part.media.version if part.media else None,
    )


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
        parts=tuple(map(_part, found.parts)),
        replaced_by=found.replaced_by.version if found.replaced_by else None,
        is_in_newest=found.is_in_newest,
        damaged=tuple(damaged),
    )
