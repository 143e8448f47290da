"""`headrace versions ls`: lists kept version sets."""

import typer

from headrace.command_line.options import AsJson, Store, examples
from headrace.text.terminal import say


@examples("headrace versions ls")
def ls(context: typer.Context, store: Store = None, as_json: AsJson = False) -> None:
    """List every kept set, and its part in each rollout."""
    from headrace.clock import SystemClock
    from headrace.command_line.bodies.versions import KeptSetBody, KeptSetsBody
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
    found: list[KeptSetBody] = []
    for one in version_sets.ids():
        try:
            kept = version_sets.get(one)
            label, code_version, fault = kept.label, kept.code_version, None
        except HandoffCorrupt as error:
            label, code_version, fault = None, None, str(error)
        found.append(
            KeptSetBody(id=one, label=label, code_version=code_version, error=fault, standings=standings.get(one, {}))
        )
    if as_json:
        print_json(KeptSetsBody(version_sets=tuple(found)))
        return
    if not found:
        say(f"No version set is kept in {objects.uri('version_sets')} yet.")
        return
    rows = [
        [
            one.id[:12],
            one.label or one.error or "",
            ", ".join(f"{standing} in {name}" for name, standing in one.standings.items()) or "in no rollout",
        ]
        for one in found
    ]
    print_table(["SET", "MODELS", "STANDING"], rows, marked="bold")
