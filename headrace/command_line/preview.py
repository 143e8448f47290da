"""`headrace preview`: the first rows of a campaign's day, before anything runs."""

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.command_line.opening import surroundings_of
from headrace.command_line.options import AsJson, Store, examples
from headrace.command_line.project import find_project
from headrace.text.terminal import say

if TYPE_CHECKING:
    import pyarrow as pa

    from headrace.generation.campaign import Campaign
    from headrace.generation.preview import Preview, WantedSet
    from headrace.handoff.versions import HandoffStore
    from headrace.keys import ContentPartition
    from headrace.settings import Settings


@examples(
    "headrace preview taglines",
    "headrace preview taglines -n 20 --engine echo      the pipeline's form, without a model",
    "headrace preview resources/campaigns/taglines.yaml --day 2026-11-22 --json",
)
def preview(
    context: typer.Context,
    campaign: Annotated[
        str, typer.Argument(metavar="CAMPAIGN", help="A campaign's name in this project, or its file.")
    ],
    num_rows: Annotated[int, typer.Option("-n", "--rows", min=1, max=1000, help="How many rows.")] = 5,
    day: Annotated[
        str | None, typer.Option(metavar="DAY", help="The day; default: today, of events the newest.")
    ] = None,
    engine: Annotated[str | None, typer.Option(metavar="NAME", help="Another engine, such as echo.")] = None,
    media: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="For pictures and recordings; default: previews/CAMPAIGN-DAY in the project's state."
        ),
    ] = None,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Show a campaign's first prompts as rendered, and their rows. Seals and registers nothing.

    Of a campaign that takes events, those of the window that was sealed last.

    Pictures and recordings of the rows are made, too, and written as files.

    The rows have the ids and bytes that a run makes of the same files on the same engine.
    """
    from headrace.command_line.bodies.previews import PreviewBody
    from headrace.command_line.campaigns import checked_day, find_campaign
    from headrace.command_line.checking.engines import require_servers
    from headrace.command_line.output import print_json
    from headrace.engines.deployment import Deployment
    from headrace.engines.media_rows import open_media_rows
    from headrace.engines.rows import open_rows
    from headrace.generation.preview import preview as make
    from headrace.handoff.versions import HandoffStore
    from headrace.store.opening import open_store

    found, settings = find_campaign(campaign, find_project(Path.cwd(), os.environ))
    found = found.with_engine(engine)
    on_day = checked_day(day, settings)
    require_servers(found)
    around = surroundings_of(context, store)
    # The store of a new project does not exist yet, and is empty then.
    handoffs = HandoffStore(open_store(around.store_url, cache=around.cache_directory))
    wanted = _wanted(found, handoffs, settings)
    window = _window(found, handoffs, day) if found.takes_events else None
    on_day = window[0].day if window else on_day
    directory = media or settings.home / "previews" / f"{found.name}-{on_day}"
    deployment = Deployment.of_preview(
        api_key=os.environ.get("HEADRACE_ENGINE_KEY"), replicas=found.replicas, unsealed=wanted.unsealed
    )
    made = make(
        found,
        wanted,
        day=on_day,
        home=settings.home,
        num_rows=num_rows,
        open_engine=lambda version_set: open_rows(version_set, handoffs.objects, deployment),
        open_media=lambda version_set, role: open_media_rows(version_set, role, handoffs.objects, deployment),
        media=directory,
        window=window,
    )
    if as_json:
        body = PreviewBody(
            campaign=found.name,
            day=made.day,
            version_set=made.version_set.id,
            num_rows_of_day=made.num_rows,
            rows=made.rows,
        )
        print_json(body)
    else:
        _print(found, made, directory)


def _window(campaign: "Campaign", handoffs: "HandoffStore", day: str | None) -> "tuple[ContentPartition, pa.Table]":
    """The newest window, and its prompts. Raises: InvalidInput: none is sealed."""
    from headrace.errors import InvalidInput
    from headrace.generation.window_prompts import content_partition, newest_window, prompts_of_window

    window = newest_window(handoffs.objects, campaign.name, day=day)
    if window is None:
        raise InvalidInput(
            f"No window of campaign {campaign.name!r} is sealed {f'for {day}' if day else 'yet'}, so there is no event "
            "to preview. Send some to the gateway: POST /v1/events."
        )
    return content_partition(window), prompts_of_window(campaign, handoffs.objects, window).prompts


def _wanted(campaign: "Campaign", handoffs: "HandoffStore", settings: "Settings") -> "WantedSet":
    from headrace.clock import SystemClock
    from headrace.generation.preview import wanted_set
    from headrace.registry.registered import registered_models
    from headrace.rollout.journal import Journal
    from headrace.rollout.states import fold
    from headrace.store.small_objects import PassedOver

    def version_of(model: str, digest: str) -> str:
        uri = settings.tracking_uri
        file = uri.removeprefix("sqlite:///")
        if file != uri and not Path(file).exists():
            return "1"
        # Only asked for weights that are not registered in the store: the import takes seconds.
        from headrace.registry.mlflow_models import ModelRegistry

        return ModelRegistry(uri).next_version(model, digest)

    models = registered_models(handoffs, damaged=PassedOver())
    state = fold(Journal(handoffs.objects, campaign.name, SystemClock()).entries())
    return wanted_set(campaign, models, state=state, home=settings.home, version_of=version_of)


def _print(campaign: "Campaign", made: "Preview", directory: Path) -> None:
    from headrace.command_line.output import cell_text, counted, print_lines, print_table

    rows = [
        [
            str(number),
            cell_text(one.asked),
            cell_text(one.output if one.finish_reason != "error" else f"error: {one.error}"),
            "kept" if one.kept else ", ".join(one.rejected_by),
            one.row_id[:12],
        ]
        for number, one in enumerate(made.rows, 1)
    ]
    print_table(["", "PROMPT", "ROW", "REVIEW", "ID"], rows)
    say()
    models = ", ".join(f"{role}: {part.engine.name}" for role, part in campaign.parts.items())
    print_lines(
        [
            f"{len(rows)} of {counted(made.num_rows, 'row')} of {campaign.name} on {made.day}, on version set "
            f"{made.version_set.id[:12]} ({made.version_set.label}; {models}). Nothing was sealed.",
        ]
    )
    parts = [part for one in made.rows for part in one.parts]
    if not parts:
        return
    missing = [f"{part.role}: {part.error or part.finish_reason}" for part in parts if part.file is None]
    num_files = len(parts) - len(missing)
    notes = Counter(f"{part.role}: {part.note}" for part in parts if part.note)
    print_lines(
        [
            f"{counted(num_files, 'picture or recording', 'pictures and recordings')} in {directory}, named by row.",
            *(f"None made: {one}" for one in missing),
            *(f"{note} ({counted(num, 'row')})" for note, num in notes.items()),
        ]
    )
