"""`headrace export`: reviewed rows for other programs, wherever they were made."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.command_line.options import Columns, Force, Store, Verbatim, examples
from headrace.errors import InvalidInput
from headrace.text.terminal import say

if TYPE_CHECKING:
    from headrace.handoff.export import Selected
    from headrace.handoff.versions import HandoffStore

_DATASET, _FOLDER = "dataset", "folder"
_TEXT_FORMATS = frozenset({"csv", "jsonl"})


@examples(
    "headrace export taglines taglines.parquet               kept rows of all days",
    "headrace export taglines today.csv --day 2026-11-22     texts that a spreadsheet would evaluate are disarmed",
    "headrace export 3fa1c2 rows.jsonl --rejected            all rows of a version set, with the rules they break",
    "headrace export taglines hub --format dataset           a Hugging Face dataset with its card",
    "headrace export taglines media --format folder          their pictures and sounds, named by row, and a table",
    "headrace export clean_documents documents.parquet       an asset's newest rows, of all partitions",
)
def export(
    context: typer.Context,
    what: Annotated[str, typer.Argument(metavar="WHAT", help="A campaign, day, version set or asset.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The file or directory to write (-: stdout).")],
    day: Annotated[
        str | None, typer.Option(metavar="DAY", help="Of a campaign or version set, this day alone.")
    ] = None,
    rejected: Annotated[bool, typer.Option("--rejected", help="Rejected rows, too.")] = False,
    file_format: Annotated[
        str | None,
        typer.Option("--format", "-f", metavar="FORMAT", help="parquet, csv, jsonl, arrow, dataset or folder (media)."),
    ] = None,
    columns: Columns = None,
    force: Force = False,
    verbatim: Verbatim = False,
    store: Store = None,
) -> None:
    """Copy rows of several partitions into one file: by default reviewed rows that the review kept."""
    from headrace.command_line.handoff.exporting import export_file_as, format_for, refuse_stdout, write_to_stdout
    from headrace.command_line.opening import open_handoffs, split_columns, suggest_columns
    from headrace.command_line.output import counted, progress
    from headrace.generation.day_media import has_media
    from headrace.generation.exports import VERDICT, export_dataset, select_rows
    from headrace.handoff.export import FORMATS
    from headrace.handoff.schemas import MEDIA

    handoffs = open_handoffs(context, store)
    selected = select_rows(handoffs, what, day=day, with_rejected=rejected)
    chosen = format_for(file_format, str(target), (*FORMATS, _DATASET, _FOLDER))
    names = split_columns(columns)
    suggest_columns(selected, names or [])
    if names is None and "kept" in selected.where:
        names = [name for name in selected.schema.names if name not in VERDICT]
    if columns is None and chosen in _TEXT_FORMATS and has_media(selected.schema):
        # A list of pictures has no form there.
        names = [name for name in names or selected.schema.names if name != MEDIA.name]
        say("The rows have pictures or recordings: --format folder or dataset takes them along.", error=True)
    if chosen == _FOLDER:
        _export_media(selected, handoffs, target, names, force=force)
        return
    num_written = 0
    with progress("exporting", selected.num_rows, in_bytes=False) as advance:

        def tell(num_rows: int) -> None:
            nonlocal num_written
            num_written += num_rows
            advance(num_rows)

        if chosen == _DATASET and force:
            raise InvalidInput("--force does not go with a dataset: move the old directory away, or name another.")
        if chosen == _DATASET:
            refuse_stdout(target, "A dataset")
        if str(target) == "-":
            write_to_stdout(selected, chosen, names, tell, verbatim=verbatim)
        elif chosen == _DATASET:
            export_dataset(selected, handoffs, target, columns=names, progress=tell)
        else:
            write = export_file_as(chosen, columns=names, force=force, verbatim=verbatim)
            write(selected, target, progress=tell)
    say(f"{target}: {counted(num_written, 'row')} of {selected.label}.", error=True)


def _export_media(
    selected: "Selected", handoffs: "HandoffStore", target: Path, columns: list[str] | None, *, force: bool
) -> None:
    from headrace.command_line.handoff.exporting import moved_away, refuse_stdout
    from headrace.command_line.output import counted, progress
    from headrace.generation.media_exports import export_media_folder

    refuse_stdout(target, "A folder")
    with progress("exporting", selected.num_rows, in_bytes=False) as advance, moved_away(target, force=force):
        made = export_media_folder(selected, handoffs, target, columns=columns, progress=advance)
    without = f"; {counted(made.num_without, 'row')} without one" if made.num_without else ""
    say(f"{target}: {counted(made.num_items, 'item')} of {selected.label}{without}.", error=True)
