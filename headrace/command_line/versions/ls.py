"""`headrace versions ls`: lists kept version sets."""

from typing import Any

import typer

from headrace.command_line.options import AsJson, Store, examples
from headrace.text.terminal import say


@examples("headrace versions ls")
def ls(context: typer.Context, store: Store = None, as_json: AsJson = False) -> None:
    """List every kept set, and its part in each rollout."""
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
