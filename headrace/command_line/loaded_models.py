"""`headrace model loaded`: what this node's engine host holds in memory."""

from typing import TYPE_CHECKING, Annotated

import typer

from headrace.command_line.options import AsJson, Store, examples
from headrace.text.terminal import say

if TYPE_CHECKING:
    from pathlib import Path

    from headrace.engines.host.table_view import ModelRow, Table

_COLUMNS = ["MODEL", "PLACE", "STATE", "KEPT", "SINCE", "AT WORK", "WAITING", "MIB", "HITS", "COMES IN", "NEXT OUT"]
# Where nobody listens, by what HEADRACE_ENGINE_HOST or --host says.
_WHAT_RUNS_DO = dict.fromkeys(("on", "cpu"), "a run that loads a model starts one.") | {
    "off": "hosts are off here (HEADRACE_ENGINE_HOST=off), so runs open their engines themselves."
}
_OF_A_NAMED_HOST = "runs that are told of it (HEADRACE_ENGINE_HOST) open their engines themselves."
# A host that works answers at once.
_QUIET_SECONDS = 2.0
_RIGHT = ["SINCE", "MIB", "HITS", "COMES IN", "NEXT OUT"]


@examples("headrace model loaded", "headrace model loaded --json")
def loaded(
    context: typer.Context,
    host: Annotated[
        str | None,
        typer.Option(
            envvar="HEADRACE_ENGINE_HOST", help="The socket of a host; default: this node's, of the store's runs."
        ),
    ] = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Show which models the engine host of this node holds in memory, since when, and which would leave first.

    NEXT OUT 1 makes room first: it is the cheapest to bring back for the use that is made of it and the memory it
    holds. KEPT: a live service needs it, and it makes no room for bulk work. AT WORK and WAITING: requests by class;
    live ones go first, then flex, then batch. A model that is asleep has a process
    without weights, which brings them back sooner. Runs that have a GPU open their models themselves, unless
    HEADRACE_ENGINE_HOST is `on`.
    """
    from headrace.command_line.bodies.models import LoadedModelsBody
    from headrace.command_line.opening import open_objects
    from headrace.command_line.output import print_json, print_table
    from headrace.engines.host.address import CPU_ONLY, ENGINE_HOST, OFF, ON, checked_word, default_socket
    from headrace.errors import InvalidInput

    source = context.get_parameter_source("host")
    said_by = ENGINE_HOST if source and source.name == "ENVIRONMENT" else "--host"
    try:
        word = checked_word(host or ON)
    except InvalidInput as error:
        raise InvalidInput(f"{said_by} {error}") from error
    socket_file = default_socket(open_objects(context, store)) if word in (ON, OFF, CPU_ONLY) else _path(word)
    table = _table_of(socket_file)
    rows = table.data if table else ()
    if as_json:
        accounts = table.accounts if table else ()
        print_json(LoadedModelsBody(socket=str(socket_file), is_there=bool(table), accounts=accounts, models=rows))
        return
    if table is None:
        say(f"No engine host listens on {socket_file}: {_WHAT_RUNS_DO.get(word, _OF_A_NAMED_HOST)}")
        return
    if rows:
        print_table(_COLUMNS, [_cells(row) for row in rows], right=_RIGHT)
    for account in table.accounts:
        say(f"{account.reserved_mib:,} of {account.mib:,} MiB of {account.place} are promised to models.")
    for row in rows:
        if row.refusal:
            say(f"{row.model} cannot come: {row.refusal}")


def _table_of(socket_file: "Path") -> "Table | None":
    """As the host's `table_of`; says that it waits, where the host takes long to answer."""
    import threading

    from headrace.engines.host.connection import table_of

    waits = threading.Timer(
        _QUIET_SECONDS, say, [f"Waiting for the engine host at {socket_file} to answer …"], {"error": True}
    )
    waits.daemon = True
    waits.start()
    try:
        return table_of(socket_file)
    finally:
        waits.cancel()


def _cells(row: "ModelRow") -> list[str]:
    from headrace.command_line.output import age_text
    from headrace.engines.host.table_text import by_class, comes_in

    return [
        row.model,
        row.place,
        row.state,
        "yes" if row.is_kept else "",
        age_text(row.state_seconds),
        by_class(row.at_work_by_class),
        by_class(row.waiting_by_class),
        f"{row.mib:,}",
        str(row.hits),
        comes_in(row),
        str(row.next_out or ""),
    ]


def _path(word: str) -> "Path":
    from pathlib import Path

    return Path(word)
