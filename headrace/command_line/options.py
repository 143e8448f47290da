"""Options that several commands share, and the examples below each command's help."""

from typing import Annotated

import typer

from headrace.command_line.opening import STORE_HELP

Store = Annotated[str | None, typer.Option("--store", metavar="URL", help=STORE_HELP)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs: fields are added, never renamed.")]


def _examples(*lines: str) -> str:
    # \b: the help formatter keeps the paragraph's lines.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


LS_EXAMPLES = _examples(
    "headrace handoff ls                                   assets",
    "headrace handoff ls raw_documents                     partitions of one",
    "headrace handoff ls raw_documents --partition shard-00    its versions",
    "headrace handoff ls --versions --json | jq '.versions[] | select(.held_by != [])'",
)
SHOW_EXAMPLES = _examples(
    "headrace handoff show raw_documents shard-00",
    "headrace handoff show raw_documents shard-00 v3 --rows 20 --columns term,text",
    "headrace handoff show 'raw_documents[shard-00]@v3' --json",
)
VERIFY_EXAMPLES = _examples(
    "headrace handoff verify                               the newest version of everything",
    "headrace handoff verify raw_documents shard-00 v3",
    "headrace handoff verify raw_documents --all-versions",
)
DIFF_EXAMPLES = _examples(
    "headrace handoff diff raw_documents shard-00 v3 v4 --key document_id",
    "headrace handoff diff 'raw_documents[shard-00]@v3' 'raw_documents[shard-01]'",
)
EXPORT_EXAMPLES = _examples(
    "headrace handoff export raw_documents shard-00 documents.parquet",
    "headrace handoff export raw_documents shard-00 v3 documents.csv --columns term,text",
    "headrace handoff export raw_documents shard-00 - --format jsonl | head",
    "headrace handoff export cards 2026-11-22 pictures --format folder",
    "headrace handoff export cards 2026-11-22 cards-%06d.tar --format webdataset",
)
GC_EXAMPLES = _examples(
    "headrace gc --dry-run",
    "headrace gc --keep 5 --grace 48",
    "headrace gc --yes --json                              from a script",
    "headrace gc --without-dagster                         the store is used without Dagster",
)
DOCTOR_EXAMPLES = _examples(
    "headrace doctor",
    "headrace doctor --store s3://headrace/store --json",
    "headrace doctor --all                                 every claim, journal entry, record …, however many",
)
SCHEMA_EXAMPLES = _examples(
    "headrace schema campaign",
    "headrace schema service > service.schema.json",
)
STATUS_EXAMPLES = _examples(
    "headrace rollout status                               a line for each",
    "headrace rollout status glossary --plan resources/campaigns/glossary.yaml    with the gate's verdict",
    "headrace rollout status glossary --mlflow sqlite:///mlflow.db                with drift of its aliases",
)
START_EXAMPLES = _examples(
    "headrace rollout start glossary --set 3fa1c2 -m 'shorter prompt'",
    "headrace rollout start glossary --set glossary:previous -m 'back to last week'",
    "headrace rollout start glossary --set 3fa1c2 --weight 10%     it is prepared: its first units",
)
TICK_EXAMPLES = _examples(
    "headrace rollout tick assistant --plan resources/services/assistant.yaml",
    "headrace rollout tick assistant --plan assistant.yaml --every 10     beside the gateways, without Dagster",
)
ADVANCE_EXAMPLES = _examples(
    "headrace rollout advance glossary --plan resources/campaigns/glossary.yaml    the plan's next step",
    "headrace rollout advance glossary --weight 25% -m 'half of it for the weekend'",
    "headrace rollout advance glossary --promote --yes",
)
PAUSE_EXAMPLES = _examples("headrace rollout pause glossary -m 'the corpus is being repaired'")
RESUME_EXAMPLES = _examples("headrace rollout resume glossary")
APPROVE_EXAMPLES = _examples("headrace rollout approve glossary -m 'read 50 cards, all fine'")
ABORT_EXAMPLES = _examples(
    "headrace rollout abort glossary --reason 'rude answers, ticket 812'",
    "headrace rollout abort glossary -m 'slow' --keep-sessions --yes",
)
JOURNAL_EXAMPLES = _examples(
    "headrace rollout journal glossary",
    "headrace rollout journal glossary --json | jq '.entries[] | select(.event == \"aborted\")'",
)
VERIFY_ROLLOUT_EXAMPLES = _examples(
    "headrace rollout verify                               all of them",
    "headrace rollout verify glossary --json",
)
ROWS_EXAMPLES = _examples(
    "headrace rollout rows glossary                        what rolled-back sets made",
    "headrace rollout rows glossary 3fa1c2 --json",
)
PAGE_EXAMPLES = _examples(
    "headrace rollout page glossary -o glossary.html --plan resources/campaigns/glossary.yaml",
)
VERSIONS_LS_EXAMPLES = _examples("headrace versions ls")
VERSIONS_SHOW_EXAMPLES = _examples("headrace versions show 3fa1c2", "headrace versions show glossary:stable --json")
VERSIONS_DIFF_EXAMPLES = _examples(
    "headrace versions diff glossary:stable glossary:candidate",
    "headrace versions diff 3fa1c2 9b07de --json",
)
