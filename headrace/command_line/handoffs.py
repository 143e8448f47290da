"""`headrace handoff …`: the commands' names, arguments and help. Each command's code is in its own module."""

from typing import Annotated

import typer

from headrace.command_line import options
from headrace.command_line.collection import gc
from headrace.command_line.options import AsJson, Store

handoff_app = typer.Typer(
    help="Look at sealed handoffs: list, show, verify, compare, export.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Asset = Annotated[
    str | None, typer.Argument(metavar="ASSET", help="Asset, or asset[partition]@v7.", show_default=False)
]
Partition = Annotated[
    str | None,
    typer.Argument(metavar="PARTITION", help="Partition key; not needed if there is one.", show_default=False),
]
Version = Annotated[
    str | None, typer.Argument(metavar="VERSION", help="Version, such as v7; the newest without.", show_default=False)
]


@handoff_app.command("ls", epilog=options.LS_EXAMPLES)
def ls(
    context: typer.Context,
    asset: Asset = None,
    partition: Annotated[
        str | None, typer.Option("--partition", "-p", help="Only this partition: its versions.")
    ] = None,
    versions: Annotated[bool, typer.Option("--versions", help="A line for each version, wherever it is.")] = False,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """List assets; of an asset its partitions; of a partition its versions."""
    from headrace.command_line.listing import list_handoffs

    list_handoffs(context, store, asset, partition, versions=versions, as_json=as_json)


@handoff_app.command("show", epilog=options.SHOW_EXAMPLES)
def show(
    context: typer.Context,
    asset: Annotated[str, typer.Argument(metavar="ASSET", help="Asset, or asset[partition]@v7.")],
    partition: Partition = None,
    version: Version = None,
    rows: Annotated[int, typer.Option("--rows", "-n", min=0, help="Rows of the preview.")] = 5,
    columns: Annotated[str | None, typer.Option("--columns", metavar="A,B", help="Columns of the preview.")] = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Show what one version holds and was made from, and its first rows."""
    from headrace.command_line.showing import show_handoff

    words = [word for word in (asset, partition, version) if word is not None]
    show_handoff(context, store, words, num_rows=rows, columns=columns, as_json=as_json)


@handoff_app.command("verify", epilog=options.VERIFY_EXAMPLES)
def verify(
    context: typer.Context,
    asset: Asset = None,
    partition: Partition = None,
    version: Version = None,
    all_versions: Annotated[
        bool, typer.Option("--all-versions", help="Not only the newest of each partition.")
    ] = False,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Read every byte and hold it against its digest; exit 1 if anything is damaged."""
    from headrace.command_line.verifying import verify_handoffs

    words = [word for word in (asset, partition, version) if word is not None]
    verify_handoffs(context, store, words, all_versions=all_versions, as_json=as_json)


@handoff_app.command("diff", epilog=options.DIFF_EXAMPLES)
def diff(
    context: typer.Context,
    what: Annotated[
        list[str],
        typer.Argument(metavar="ASSET PARTITION V1 V2 | REF REF", help="Two versions; REF is asset[partition]@v7."),
    ],
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="A,B", help="Columns that tell rows apart; by position without."),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=0, help="Rows to show of each kind of change.")] = 3,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Compare two versions' columns and rows; exit 1 if they differ."""
    from headrace.command_line.differing import show_differences

    show_differences(context, store, what, key=key, samples=samples, as_json=as_json)


@handoff_app.command("export", epilog=options.EXPORT_EXAMPLES)
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
    columns: Annotated[str | None, typer.Option("--columns", metavar="A,B", help="Only these columns.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the target.")] = False,
    verbatim: Annotated[
        bool,
        typer.Option("--verbatim", help="In csv, no apostrophe before texts that a spreadsheet takes for formulas."),
    ] = False,
    store: Store = None,
) -> None:
    """Copy a version into a file of another format, whole or not at all."""
    from headrace.command_line.exporting import export_handoff

    export_handoff(context, store, what, file_format=file_format, columns=columns, force=force, verbatim=verbatim)


handoff_app.command("gc", epilog=options.GC_EXAMPLES)(gc)
