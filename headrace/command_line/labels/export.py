"""`headrace labels export`: documents for people to label, in a file for their tool."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from headrace.command_line.options import Force, Store, examples
from headrace.errors import InvalidInput
from headrace.text.terminal import say

Question = Annotated[
    str, typer.Option("--question", metavar="NAME", help="The name under which the tool keeps what people choose.")
]


@examples(
    "headrace labels export tasks.json                          200 that nobody has labelled, for Label Studio",
    "headrace labels export records.json --for argilla -n 500   a larger sample contains the smaller one",
    "headrace labels export tasks.json --only disagreed -n 0    all that judge and people see differently",
)
def export(
    context: typer.Context,
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The JSON file to write.")],
    tool: Annotated[str, typer.Option("--for", metavar="TOOL", help="label-studio or argilla.")] = "label-studio",
    only: Annotated[str, typer.Option("--only", metavar="WHICH", help="unlabelled (by people), disagreed or all.")] = (
        "unlabelled"
    ),
    num_tasks: Annotated[int, typer.Option("-n", "--tasks", min=0, help="How many documents at most; 0: all.")] = 200,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**64 - 1, help="Decides which ones are drawn.")] = 0,
    choices: Annotated[
        str | None, typer.Option("--choices", metavar="A,B", help="Labels to choose from; default: the corpus file's.")
    ] = None,
    question: Question = "label",
    include_dropped: Annotated[
        bool, typer.Option("--include-dropped", help="Documents that cleaning drops by a rule or as copies, too.")
    ] = False,
    force: Force = False,
    store: Store = None,
) -> None:
    """Write documents for people to label, as Label Studio or Argilla reads them: those that cleaning keeps, or drops
    for their label alone, with placeholders for personal data, and the labels that there are as predictions.

    What cleaning keeps is judged as headrace dropped does it, by the corpus file as it is.

    For Label Studio, its labelling interface is written beside it: TARGET with .xml for .json.
    """
    from headrace.command_line.opening import home_of, open_handoffs
    from headrace.command_line.output import counted
    from headrace.prep.annotation_tasks import (
        Chosen,
        Tool,
        drawn_tasks,
        known_labels,
        shown_names,
        studio_config,
        tool_json,
    )
    from headrace.store.whole_files import refuse_present, renamed_when_whole

    _check_one_of("--for", tool, get_args(Tool))
    _check_one_of("--only", only, get_args(Chosen))
    corpus = corpus_here()
    config = target.with_suffix(".xml") if tool == "label-studio" else None
    if config == target:
        raise InvalidInput(f"TARGET must be a JSON file, got {target}: the labelling interface gets that name.")
    for file in filter(None, (target, config)):
        refuse_present(file, overwrite=force)
    found = drawn_tasks(
        corpus,
        open_handoffs(context, store),
        _people(corpus, home_of(context)),
        chosen=only,  # pyright: ignore[reportArgumentType]
        num_tasks=num_tasks,
        seed=seed,
        with_dropped=include_dropped,
    )
    labels = choices.split(",") if choices else known_labels(corpus, found.tasks)
    if config and len(labels) < 2:
        raise InvalidInput(
            f"--choices is needed: corpus {corpus.name} names {', '.join(labels) or 'no labels'}, wanted at least two "
            "to choose from."
        )
    if not found.tasks:
        also = f" Cleaning drops {_told(found.left_out)}: --include-dropped offers them." if found.left_out else ""
        raise InvalidInput(f"No document of corpus {corpus.name} is {only}: there is nothing to label.{also}")
    with renamed_when_whole(target, overwrite=force) as partial:
        partial.write_text(tool_json(tool, found.tasks, question), "utf-8")  # pyright: ignore[reportArgumentType]
    if config:
        with renamed_when_whole(config, overwrite=force) as partial:
            partial.write_text(studio_config(labels, question, shown_names(found.tasks)), "utf-8")
    say(f"{target}: {counted(len(found.tasks), 'document')} of {found.num_fitting:,} to label.", error=True)
    if found.left_out:
        say(f"Left out, as cleaning drops them: {_told(found.left_out)}; --include-dropped offers them.", error=True)
    if config:
        say(f"{config}: the labelling interface, with {', '.join(labels)}.", error=True)
    if found.unread_shards:
        say(f"{', '.join(found.unread_shards)}: raw_documents is not sealed yet.", error=True)


def _told(left_out: Mapping[str, int]) -> str:
    from headrace.command_line.output import counted

    by_rule = ", ".join(f"{rule} {count:,}" for rule, count in sorted(left_out.items()))
    return f"{counted(sum(left_out.values()), 'document')} ({by_rule})"


def corpus_here() -> Any:
    """The corpus of the project that the command runs in."""
    from headrace.command_line.project import find_project
    from headrace.prep.corpus import load_corpus

    return load_corpus(find_project(Path.cwd(), os.environ).settings().corpus)


def _people(corpus: Any, home: Path) -> Any:
    """shard → what people's file says already; without a file nothing."""
    from headrace.prep.labels import label_file_path, read_label_file

    settings = corpus.labels.file if corpus.labels else None

    def given(shard: str) -> dict[str, str]:
        if settings is None or not label_file_path(settings, shard, home).exists():
            return {}
        return read_label_file(settings, shard, home)

    return given


def _check_one_of(option: str, got: str, wanted: tuple[str, ...]) -> None:
    if got not in wanted:
        raise InvalidInput(f"{option} must be one of {', '.join(wanted)}, got {got!r}.")
