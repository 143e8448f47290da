"""`headrace trace`: one row's whole origin."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.command_line.bodies.campaigns import TraceBody, TracedModelBody
from headrace.command_line.options import AsJson, Store, examples
from headrace.text.terminal import say

if TYPE_CHECKING:
    from headrace.generation.tracing import Trace, TracedModel


@examples(
    "headrace trace 448339db59fd                          the beginning of a row_id is enough",
    "headrace trace 448339db59fd --partition '2026-11-22|glossary-03' --json",
)
def trace(
    context: typer.Context,
    row: Annotated[str, typer.Argument(metavar="ROW", help="A row's row_id, or the beginning of it.")],
    partition: Annotated[
        str | None, typer.Option(metavar="PARTITION", help="Search only this partition of generated_content.")
    ] = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Show what one row was made from: prompt, models with versions and digests, training data, seed, run, review.

    Reads the store alone. A row that a newer version of its partition replaced is found as long as its own is kept.
    """
    from headrace.command_line.opening import open_handoffs
    from headrace.command_line.output import print_json
    from headrace.generation.tracing import trace as find
    from headrace.store.small_objects import PassedOver

    damaged = PassedOver()
    found = find(open_handoffs(context, store), row, partition=partition, damaged=damaged)
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
        print_lines(aligned(_model_facts(model)))
    print_lines([f"Passed over: {one}" for one in damaged])


def _standing(found: "Trace") -> str:
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
    if found.review is None:
        return "not reviewed, or another version is"
    return "kept" if found.review["kept"] else f"rejected by {', '.join(found.review['rejected_by'])}"


def _model_facts(model: "TracedModel") -> list[list[str]]:
    member, registered = model.member, model.registered
    facts = [
        ["model", f"{member.model_name} version {member.model_version}"],
        ["weights", member.weights_digest],
    ]
    if not member.is_registered:
        return [*facts, ["training", "unknown: a server's own model"]]
    if registered is None:
        return [*facts, ["training", "unknown: its registration is not in this store"]]
    if registered.kind == "base":
        return [*facts, ["training", "none here: a base model"]]
    data = ", ".join(model.training_inputs) or "data that is gone"
    return [*facts, ["training", f"recipe {registered.recipe}, MLflow run {registered.mlflow_run_id}, on {data}"]]


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
        run=dict(found.execution) if found.execution else None,
        review=dict(found.review) if found.review else None,
        version_set=found.version_set.for_people() if found.version_set else None,
        models=tuple(models),
        replaced_by=found.replaced_by.version if found.replaced_by else None,
        is_in_newest=found.is_in_newest,
        damaged=tuple(damaged),
    )
