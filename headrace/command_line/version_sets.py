"""`headrace versions …`: lists kept version sets, shows one, or compares two."""

from typing import Annotated, Any

import typer

from headrace.command_line import options
from headrace.command_line.options import AsJson, Store
from headrace.text.terminal import say

versions_app = typer.Typer(
    help="Version sets: the exact models and settings that a unit of work sees.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_SET_HELP = "A set: id, its beginning, or NAME:stable, NAME:candidate, NAME:proposed, NAME:previous."


@versions_app.command("ls", epilog=options.VERSIONS_LS_EXAMPLES)
def ls(context: typer.Context, store: Store = None, as_json: AsJson = False) -> None:
    """List every kept set, and what each rollout makes of it."""
    from headrace.clock import SystemClock
    from headrace.command_line.opening import open_objects
    from headrace.command_line.output import print_json, print_table
    from headrace.errors import HandoffCorrupt
    from headrace.rollout.journal import Journal
    from headrace.rollout.layout import rollout_names
    from headrace.rollout.states import fold
    from headrace.rollout.status import standing_of
    from headrace.version_sets.sets import VersionSets

    objects = open_objects(context, store)
    version_sets, clock = VersionSets(objects), SystemClock()
    standings: dict[str, dict[str, str]] = {}
    for name in rollout_names(objects):
        entries = Journal(objects, name, clock).entries()
        state = fold(entries)
        for one in {str(entry.fields["version_set"]) for entry in entries if "version_set" in entry.fields}:
            standings.setdefault(one, {})[name] = standing_of(one, state)
    found: list[dict[str, Any]] = []
    for one in version_sets.ids():
        try:
            kept = version_sets.get(one)
            facts = {"label": kept.label, "code_version": kept.code_version, "error": None}
        except HandoffCorrupt as error:
            facts = {"label": None, "code_version": None, "error": str(error)}
        found.append({"id": one, **facts, "standings": standings.get(one, {})})
    if as_json:
        print_json({"version_sets": found})
        return
    if not found:
        say(f"No version set is kept in {objects.uri('version_sets')} yet.")
        return
    rows = [
        [
            one["id"][:12],
            one["label"] or one["error"],
            ", ".join(f"{standing} in {name}" for name, standing in one["standings"].items()) or "in no rollout",
        ]
        for one in found
    ]
    print_table(["SET", "MODELS", "STANDING"], rows, marked="bold")


@versions_app.command("show", epilog=options.VERSIONS_SHOW_EXAMPLES)
def show(
    context: typer.Context,
    version_set: Annotated[str, typer.Argument(metavar="SET", help=_SET_HELP)],
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Show everything that a set fixes: models, digests, prompts, decoding, engine, code."""
    from headrace.command_line.opening import open_objects
    from headrace.command_line.output import aligned, print_heading, print_json, print_lines
    from headrace.command_line.rollout_opening import find_set
    from headrace.text.visible import one_line
    from headrace.version_sets.sets import VersionSets

    objects = open_objects(context, store)
    found = VersionSets(objects).get(find_set(objects, version_set))
    if as_json:
        print_json(found.for_people())
        return
    say(found.id, bold=True)
    print_lines(aligned([["code version", found.code_version], ["engine", _engine_text(found.engine)]]))
    for member in found.members:
        print_heading(member.role)
        decoding = member.decoding
        facts = [
            ["model", f"{member.model_name} version {member.model_version}"],
            ["weights", member.weights_digest],
            ["weights at", member.weights_uri or "with the server"],
            *([["engine", _engine_text(member.engine)]] if member.engine else []),
            [
                "decoding",
                f"temperature {decoding.temperature:g}, top_p {decoding.top_p:g}, at most {decoding.max_new_tokens} "
                "tokens",
            ],
            ["system prompt", one_line(member.system_prompt) or "none"],
            ["user template", one_line(member.user_template)],
        ]
        print_lines(aligned(facts))


@versions_app.command("diff", epilog=options.VERSIONS_DIFF_EXAMPLES)
def diff(
    context: typer.Context,
    before: Annotated[str, typer.Argument(metavar="A", help=_SET_HELP)],
    after: Annotated[str, typer.Argument(metavar="B", help="The other one, as A.")],
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Show what changes from set A to set B, a line a setting. Exits with 1 if they differ."""
    from headrace.command_line.opening import open_objects
    from headrace.command_line.output import print_json, print_table
    from headrace.command_line.rollout_opening import find_set
    from headrace.command_line.rollout_views import setting_text
    from headrace.version_sets.sets import VersionSets

    objects = open_objects(context, store)
    version_sets = VersionSets(objects)
    first, second = (version_sets.get(find_set(objects, word)) for word in (before, after))
    found = version_sets.diff(first.id, second.id)
    if as_json:
        differences = [{"path": one.path, "before": one.before, "after": one.after} for one in found]
        print_json({"before": first.id, "after": second.id, "differences": differences})
    elif not found:
        say(f"Both are {first.id[:12]} ({first.label}).")
    else:
        say(f"{first.id[:12]} ({first.label}) → {second.id[:12]} ({second.label})")
        texts = [[one.path, setting_text(one.before), setting_text(one.after)] for one in found]
        print_table(["SETTING", "A", "B"], texts)
    if found:
        raise typer.Exit(1)


def _engine_text(engine: Any) -> str:
    from headrace.masking import without_credentials

    at = f", {engine.model} at {without_credentials(engine.base_url)}" if engine.base_url else ""
    build = f" ({engine.build})" if engine.build else ""
    return f"{engine.name}{build}, {engine.dtype}, {engine.num_threads} threads{at}"
