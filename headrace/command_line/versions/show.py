"""`headrace versions show`: everything that a set fixes."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.command_line.options import AsJson, Store, examples
from headrace.text.terminal import say

if TYPE_CHECKING:
    from headrace.version_sets.sets import Member

SET_HELP = "A set: id, its beginning, or NAME:stable, NAME:candidate, NAME:proposed, NAME:previous."


@examples("headrace versions show 3fa1c2", "headrace versions show glossary:stable --json")
def show(
    context: typer.Context,
    version_set: Annotated[str, typer.Argument(metavar="SET", help=SET_HELP)],
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Show everything that a set fixes: models, digests, prompts, decoding or picture or speech, engine, code."""
    from headrace.command_line.opening import open_objects
    from headrace.command_line.output import aligned, print_heading, print_json, print_lines
    from headrace.command_line.rollout.opening import find_set
    from headrace.command_line.rollout.screens import setting_text
    from headrace.text.visible import one_line
    from headrace.version_sets.sets import VersionSets

    objects = open_objects(context, store)
    found = VersionSets(objects).get(find_set(objects, version_set))
    if as_json:
        print_json(found.for_people())
        return
    say(found.id, bold=True)
    chain = [["chain", setting_text(found.chain)]] if found.chain else []
    print_lines(aligned([["code version", found.code_version], ["engine", _engine_text(found.engine)], *chain]))
    for member in found.members:
        print_heading(member.role)
        facts = [
            ["model", f"{member.model_name} version {member.model_version}"],
            ["weights", member.weights_digest],
            ["weights at", member.weights_uri or "with the server, or in the engine's package"],
            *([["engine", _engine_text(member.engine)]] if member.engine else []),
            *_making_facts(member),
            ["user template" if member.kind == "text" else "template", one_line(member.user_template)],
        ]
        print_lines(aligned(facts))


def _making_facts(member: "Member") -> list[list[str]]:
    """How a member makes its output."""
    from headrace.text.visible import one_line

    if picture := member.picture:
        told = [f"{picture.width} × {picture.height}"]
        told += [f"{picture.num_inference_steps} steps"] if picture.num_inference_steps else []
        told += [f"guidance {picture.guidance_scale:g}"] if picture.guidance_scale is not None else []
        told += [f"scheduler {picture.scheduler}"] if picture.scheduler else []
        negative = [["negative prompt", one_line(picture.negative_prompt)]] if picture.negative_prompt else []
        return [["picture", ", ".join(told)], *negative]
    if speech := member.speech:
        told = [f"voice {speech.voice}"] if speech.voice else ["the model's own voice"]
        told += [f"speed {speech.speed:g}", f"at most {speech.duration_seconds_max:g} s"]
        told += [f"{speech.sample_rate:,} samples a second"] if speech.sample_rate else []
        return [["speech", ", ".join(told)]]
    decoding = member.writing
    told = [f"temperature {decoding.temperature:g}", f"top_p {decoding.top_p:g}"]
    return [
        ["decoding", f"{', '.join(told)}, at most {decoding.max_new_tokens} tokens"],
        ["system prompt", one_line(member.system_prompt) or "none"],
    ]


def _engine_text(engine: Any) -> str:
    from headrace.masking import without_credentials
    from headrace.text.visible import one_line

    settings = [f"{engine.name} ({engine.whole_build})" if engine.whole_build else engine.name]
    settings += [f"dtype {engine.dtype}", f"num_threads {engine.num_threads}"]
    if engine.base_url:
        settings.append(f"{engine.model} at {without_credentials(engine.base_url)}")
    if engine.template_date:
        settings.append(f"template_date {engine.template_date}")
    if engine.special_tokens:
        settings.append(f"{len(engine.special_tokens)} special tokens")
    if engine.options:
        settings.append(f"options {one_line(engine.options)}")
    return ", ".join(settings)
