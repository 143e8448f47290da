"""`headrace labels import`: what people chose, into the label file that the corpus names."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.command_line.bodies.labels import FileChangeBody, LabelsImportBody
from headrace.command_line.labels.export import Question, corpus_here
from headrace.command_line.options import AsJson, Store, examples
from headrace.text.terminal import say

if TYPE_CHECKING:
    from headrace.prep.annotators import Answers
    from headrace.prep.label_import import LabelImport

_ROWS_SHOWN = 20


@examples(
    "headrace labels import export.json --dry-run        what it would change",
    "headrace labels import a.json b.json                several people's exports: the majority of each document",
    "headrace labels import records.json --replace       also where the file has another label",
)
def import_(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="What Label Studio or Argilla exported.")],
    question: Question = "label",
    replace: Annotated[
        bool, typer.Option("--replace", help="Where the label file has another label, the chosen one takes its place.")
    ] = False,
    known_only: Annotated[
        bool, typer.Option("--known-only", help="Leave out documents that are not in the corpus.")
    ] = False,
    one_server: Annotated[
        bool,
        typer.Option("--one-server", help="All files are of one Label Studio: user 1 is one person in all of them."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would change; change nothing.")] = False,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Take labels from exports of Label Studio (JSON, JSON-MIN) or Argilla (records) into the corpus's label file.

    Several people's choices become one label by majority; where the most are equal, the document is told and left out.
    A person's newest annotation counts, and one that was skipped withdraws the label. Label Studio's user 1 is another
    person in each file, unless an e-mail address or a task that both files have tells that it is one.

    All of it is written, or nothing. The same import again changes nothing. Exit code 1: some documents got no label,
    since people were divided, or the file has another one.
    """
    from headrace.command_line.opening import home_of, open_handoffs
    from headrace.command_line.output import print_json
    from headrace.prep.annotation_exports import read_annotations
    from headrace.prep.annotators import newest_answers
    from headrace.prep.label_file_edits import write_changes
    from headrace.prep.label_import import planned_import

    corpus = corpus_here()
    answers = newest_answers([read_annotations(file, question) for file in files], one_server=one_server)
    plan = planned_import(
        corpus,
        open_handoffs(context, store),
        home_of(context),
        answers.labels,
        replace=replace,
        known_only=known_only,
    )
    if not dry_run:
        write_changes(plan.files, corpus.labels.file)
    if as_json:
        print_json(asdict(_body(plan, answers, written=not dry_run)))
    else:
        _print(plan, answers, dry_run=dry_run)
    if plan.undecided or plan.differing:
        raise typer.Exit(1)


def _body(plan: "LabelImport", answers: "Answers", *, written: bool) -> LabelsImportBody:
    return LabelsImportBody(
        is_written=written,
        num_skipped=answers.num_skipped,
        num_unordered=answers.num_unordered,
        servers=tuple(tuple(map(str, files)) for files in answers.servers),
        num_annotations=plan.num_annotations,
        num_annotators=plan.num_annotators,
        alpha=plan.alpha,
        files=tuple(
            FileChangeBody(path=str(file.path), num_added=len(file.added), num_replaced=len(file.replaced))
            for file in plan.files
        ),
        num_documents=plan.num_documents,
        num_unknown=plan.num_unknown,
        num_unchanged=plan.num_unchanged,
        undecided=plan.undecided,
        differing=plan.differing,
    )


def _print(plan: "LabelImport", answers: "Answers", *, dry_run: bool) -> None:
    from headrace.command_line.output import aligned, counted, print_heading, print_lines, print_table

    alpha = "" if plan.alpha is None else f"; Krippendorff's alpha is {plan.alpha:.2f}"
    say(
        f"{counted(plan.num_annotations, 'annotation')} by {counted(plan.num_annotators, 'person', 'people')} of "
        f"{counted(plan.num_documents, 'document')}{alpha}."
    )
    if len(answers.servers) > 1:
        files = "; ".join(", ".join(map(str, files)) for files in answers.servers)
        say(f"A user's number is another person in each of {files}. --one-server: the files are of one Label Studio.")
    if answers.num_unordered:
        say(
            f"In {counted(answers.num_unordered, 'case')} no time tells the newest of a person's annotations, which "
            "differ: the last one counts, in the order of the files."
        )
    would = "would be " if dry_run else ""
    facts = [
        [f"{would}added", f"{plan.num_added:,}"],
        [f"{would}replaced", f"{plan.num_replaced:,}"],
        ["as they were", f"{plan.num_unchanged:,}"],
        ["skipped in the tool", f"{answers.num_skipped:,}"],
        ["not in the corpus", f"{plan.num_unknown:,}"],
        ["undecided", f"{len(plan.undecided):,}"],
        ["another label in the file", f"{len(plan.differing):,}"],
    ]
    print_lines(aligned(facts, right=[1]))
    print_lines([f"{file.path}: {len(file.added):,} added, {len(file.replaced):,} replaced." for file in plan.files])
    if plan.undecided:
        print_heading("As many people chose one label as another; none is written")
        rows = [
            [one.document_id, ", ".join(f"{label} {votes}" for label, votes in one.votes.items())]
            for one in plan.undecided[:_ROWS_SHOWN]
        ]
        print_table(["DOCUMENT", "CHOSEN"], rows)
    if plan.differing:
        print_heading("The file has another label; --replace takes the chosen one")
        rows = [[one.document_id, one.file_label, one.chosen_label] for one in plan.differing[:_ROWS_SHOWN]]
        print_table(["DOCUMENT", "IN THE FILE", "CHOSEN"], rows)
