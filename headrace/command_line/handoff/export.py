"""`headrace handoff export`: rows by `headrace.handoff.export`, media by `headrace.handoff.media.exporting`."""

from pathlib import Path
from typing import Annotated

import typer

from headrace.command_line.options import Columns, Force, Store, Verbatim, examples
from headrace.errors import InvalidInput
from headrace.text.terminal import say


@examples(
    "headrace handoff export raw_documents shard-00 documents.parquet",
    "headrace handoff export raw_documents shard-00 v3 documents.csv --columns term,text",
    "headrace handoff export raw_documents shard-00 - --format jsonl | head",
    "headrace handoff export generated_images '2026-11-22|tales-00' pictures --format folder",
    "headrace handoff export generated_speech '2026-11-22|tales-00' voices-%06d.tar --format webdataset",
)
def export(
    context: typer.Context,
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="ASSET [PARTITION [VERSION]] TARGET", help="A version, and the file to write (-: stdout)."
        ),
    ],
    file_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            metavar="FORMAT",
            help="parquet, csv, jsonl or arrow; of media folder, webdataset or parquet. Default: the target's suffix.",
        ),
    ] = None,
    columns: Columns = None,
    force: Force = False,
    verbatim: Verbatim = False,
    store: Store = None,
) -> None:
    """Copy a version into a file of another format, whole or not at all."""
    from headrace.command_line.handoff.exporting import (
        MEDIA_FORMATS,
        export_file_as,
        export_media,
        format_for,
        write_to_stdout,
    )
    from headrace.command_line.opening import Reference, open_handoffs, open_reference, split_columns, suggest_columns
    from headrace.command_line.output import counted, progress
    from headrace.handoff.export import FORMATS, check_types
    from headrace.handoff.media.layout import is_media

    if len(what) < 2:
        raise InvalidInput(
            f"Say what to export and where to: ASSET [PARTITION [VERSION]] TARGET, got {' '.join(what)!r}."
        )
    handoffs = open_handoffs(context, store)
    *words, last = what
    handoff = open_reference(handoffs, Reference.parse(words, assets=handoffs.assets()))
    target = Path(last)
    chosen = format_for(file_format, last, [*FORMATS, *(one for one in MEDIA_FORMATS if one not in FORMATS)])
    if is_media(handoff.manifest) and chosen in MEDIA_FORMATS:
        if columns:
            raise InvalidInput(
                f"{handoff.label} holds media: --columns goes with csv, jsonl and arrow, which export its index."
            )
        export_media(handoff, target, chosen, force=force)
        return
    if chosen in MEDIA_FORMATS and chosen != "parquet":
        raise InvalidInput(f"{handoff.label} holds no media: export {', '.join(FORMATS)}, got {chosen!r}.")
    names = split_columns(columns)
    suggest_columns(handoff, names or [])
    check_types(handoff, chosen, names)
    with progress("exporting", handoff.num_rows, in_bytes=False) as advance:
        if last == "-":
            write_to_stdout(handoff, chosen, names, advance, verbatim=verbatim)
            return
        write = export_file_as(chosen, columns=names, force=force, verbatim=verbatim)
        write(handoff, target, progress=advance)
    say(f"{target}: {counted(handoff.num_rows, 'row')} of {handoff.label}.", error=True)
