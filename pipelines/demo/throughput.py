"""A chapter's work so far: sealed rows, committed rows of unfinished partitions, a gang's last step."""

import time
from collections.abc import Sequence
from pathlib import Path

from headrace.handoff.versions import Handoff, HandoffStore
from headrace.training.progress import ProgressTail, duration
from pipelines.demo.story import Chapter
from pipelines.demo.view import Throughput
from resources.settings import Settings

# A gang that wrote nothing for this long is not the present one.
_FRESH_SECONDS = 120.0
_ROWS_OF_STAGE = {"data_prep": "clean_documents", "generation": "generated_content"}


def throughput(handoffs: HandoffStore, settings: Settings, chapter: Chapter) -> Throughput:
    """Reads only the store; an unfinished or missing file counts as nothing."""
    if chapter.stage == "training":
        trained = [handoffs.newest("trained_model", target.partition) for target in chapter.targets]
        sealed = [newest for newest in trained if newest]
        return _trained(sealed) if len(sealed) == len(trained) else _training(settings.home / "training")
    asset = _ROWS_OF_STAGE.get(chapter.stage)
    if asset is None:
        return Throughput()
    partitions = dict.fromkeys(target.partition for target in chapter.targets if "model" not in target.asset)
    sealed = [newest for key in partitions if (newest := handoffs.newest(asset, key))]
    rows = sum(handoff.num_rows for handoff in sealed)
    if asset != "generated_content":
        return Throughput(rows=rows)
    tokens, seconds = 0, 0.0
    for handoff in sealed:
        execution = handoffs.newest("execution", handoff.partition)
        if execution is not None:
            tokens += sum(filter(None, handoff.table(columns=["num_output_tokens"])["num_output_tokens"].to_pylist()))
            seconds += sum(execution.table(columns=["seconds"])["seconds"].to_pylist())
    return Throughput(rows=rows, tokens_per_second=tokens / seconds if seconds else 0.0)


def _trained(sealed: Sequence[Handoff]) -> Throughput:
    rows = [handoff.table().to_pylist()[0] for handoff in sealed]
    return Throughput(note=f"{', '.join(str(row['steps_applied']) for row in rows)} steps applied")


def _training(work: Path) -> Throughput:
    logs = sorted(work.glob("*/*/progress.jsonl"), key=lambda path: path.stat().st_mtime)
    if not logs or time.time() - logs[-1].stat().st_mtime > _FRESH_SECONDS:
        return Throughput(note="ranks are starting")
    rows = ProgressTail(logs[-1]).new_rows()
    if not rows:
        return Throughput(note="ranks are starting")
    last = rows[-1]
    return Throughput(
        tokens_per_second=last["tokens_per_second"],
        note=f"step {last['step']}, loss {last['loss']:.3f}, {duration(last['seconds'])} a step",
    )
