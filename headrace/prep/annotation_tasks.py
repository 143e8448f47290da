"""Documents for people to label, as Label Studio and Argilla read them.

A document is shown as a judge sees it: repaired, normalised, with placeholders for personal data. Work on one that
cleaning drops, by a rule or as a copy, would be lost; one that a label drops is offered, as its label is the question.
Labels that there are come along as predictions. Which ones are drawn depends on seed and ids alone, so a larger sample
contains the smaller one, whatever the order of files and shards. By the id, which both tools keep, an answer finds its
document again.

Sources: labelstud.io/guide/tasks (basic JSON tasks) and guide/predictions; Argilla 2, `Record.to_dict`.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl
import pyarrow as pa
import xxhash

from headrace.errors import HandoffMissing
from headrace.handoff.versions import HandoffStore
from headrace.prep.corpus import Corpus
from headrace.prep.dropped_documents import judged_now, sealed_shard
from headrace.prep.labels import labels_by_source
from headrace.prep.quality import LABEL_UNWANTED
from headrace.text.pages import escaped

Tool = Literal["label-studio", "argilla"]
Chosen = Literal["unlabelled", "disagreed", "all"]
# What a task is called in the tool: the field of the text, and the question that is asked about it.
TEXT = "text"
_SHOWN = ("term", "category")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One document to label, with the labels that it has: source → label."""

    document_id: str
    shard: str
    file: str
    line: int
    texts: dict[str, str]
    labels: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """`num_fitting`: how many there were to draw from. `left_out`: rule → how many more fit, but for the rule.
    `unread_shards`: whose raw documents are not sealed yet."""

    tasks: tuple[Task, ...]
    num_fitting: int
    left_out: Mapping[str, int]
    unread_shards: tuple[str, ...]


def drawn_tasks(
    corpus: Corpus,
    handoffs: HandoffStore,
    people: Callable[[str], Mapping[str, str]],
    *,
    chosen: Chosen,
    num_tasks: int,
    seed: int,
    with_dropped: bool,
) -> Tasks:
    """Tasks from all sealed shards, in the order in which they are drawn; of an id in several shards the first one.

    Args:
        people: shard → the labels that people gave already, by document id.
        num_tasks: at most so many; 0: all.
        with_dropped: documents that cleaning drops are offered, too.

    Raises:
        HandoffMissing: no shard's files were read yet.
        InvalidInput: as `judged_now`.
    """
    read = [shard for shard in corpus.shard_keys if handoffs.newest("raw_documents", shard)]
    if not read:
        raise HandoffMissing("No raw_documents are sealed: materialize raw_documents first.")
    verdicts = {} if with_dropped else judged_now(corpus, handoffs, read)
    drawn: list[tuple[int, Task]] = []
    seen: set[str] = set()
    rules: dict[str, str] = {}
    for shard in read:
        for rule, task in _tasks(corpus, handoffs, shard, people(shard), verdicts.get(shard)):
            if task.document_id in seen or not _fits(task, corpus, chosen):
                continue
            if rule not in (None, LABEL_UNWANTED):
                rules.setdefault(task.document_id, rule)
                continue
            seen.add(task.document_id)
            drawn.append((xxhash.xxh3_64_intdigest(task.document_id.encode(), seed), task))
        drawn.sort(key=lambda one: (one[0], one[1].document_id))
        drawn = drawn[:num_tasks] if num_tasks else drawn
    return Tasks(
        tasks=tuple(task for _, task in drawn),
        num_fitting=len(seen),
        left_out=Counter(rule for document_id, rule in rules.items() if document_id not in seen),
        unread_shards=tuple(shard for shard in corpus.shard_keys if shard not in read),
    )


def _tasks(
    corpus: Corpus, handoffs: HandoffStore, shard: str, people: Mapping[str, str], verdict: pa.Table | None
) -> Iterator[tuple[str | None, Task]]:
    """A shard's documents, each with the rule that drops it."""
    settings = corpus.labels
    judged: Mapping[str, str] = {}
    sealed = handoffs.newest("labels", shard)
    if sealed and settings and settings.judge:
        judged = labels_by_source(sealed.table()).get(settings.judge.source, {})
    decided = dict(pl.DataFrame(verdict).select("place", "rule").iter_rows()) if verdict else {}
    for start, documents in sealed_shard(corpus, handoffs, shard).prepared(corpus):
        for place, row in enumerate(documents.iter_rows(named=True), start):
            labels = {}
            if settings and settings.judge and row["document_id"] in judged:
                labels[settings.judge.source] = judged[row["document_id"]]
            if settings and settings.file and row["document_id"] in people:
                labels[settings.file.source] = people[row["document_id"]]
            task = Task(
                document_id=row["document_id"],
                shard=shard,
                file=row["source_file"],
                line=row["source_line"],
                texts={TEXT: row["text"], **{name: row[name] for name in _SHOWN if row[name] is not None}},
                labels=labels,
            )
            yield decided.get(place), task


def _fits(task: Task, corpus: Corpus, chosen: Chosen) -> bool:
    match chosen:
        case "all":
            return True
        case "unlabelled":
            people = corpus.labels.file.source if corpus.labels and corpus.labels.file else None
            return people not in task.labels
        case "disagreed":
            return len(set(task.labels.values())) > 1


def known_labels(corpus: Corpus, tasks: Iterable[Task]) -> list[str]:
    """The labels that the corpus file names, and those that documents have."""
    settings = corpus.labels
    named = [*(settings.judge.answers if settings and settings.judge else ()), *(settings.drop if settings else ())]
    return list(dict.fromkeys([*named, *sorted({label for task in tasks for label in task.labels.values()})]))


def tool_json(tool: Tool, tasks: Sequence[Task], question: str) -> str:
    """A JSON list with one task a line.

    Args:
        question: the name under which the tool keeps what people choose.
    """
    # Label Studio refuses a task without a value for each variable of its interface.
    empty = dict.fromkeys(shown_names(tasks), "")
    made = (
        _studio_task(task, question, empty) if tool == "label-studio" else _argilla_record(task, question)
        for task in tasks
    )
    lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in made)
    return f"[\n{lines}\n]\n"


def shown_names(tasks: Iterable[Task]) -> list[str]:
    """What tasks show beside the text."""
    there = {name for task in tasks for name in task.texts}
    return [name for name in _SHOWN if name in there]


def _studio_task(task: Task, question: str, empty: Mapping[str, str]) -> dict[str, Any]:
    predictions = [
        {
            "model_version": source,
            "result": [
                {"from_name": question, "to_name": TEXT, "type": "choices", "value": {"choices": [label]}},
            ],
        }
        for source, label in task.labels.items()
    ]
    place = {"document_id": task.document_id, "shard": task.shard, "file": task.file, "line": task.line}
    return {"data": {**empty, **task.texts, **place}, "predictions": predictions}


def _argilla_record(task: Task, question: str) -> dict[str, Any]:
    # A question takes one suggestion; the other labels are metadata.
    suggested = next(iter(task.labels.items()), None)
    suggestions = {question: {"value": suggested[1], "score": None, "agent": suggested[0]}} if suggested else {}
    place = {"document_id": task.document_id, "shard": task.shard, "file": task.file, "line": task.line}
    return {
        "id": task.document_id,
        "fields": task.texts,
        "metadata": {**place, **{f"label_{source}": label for source, label in task.labels.items()}},
        "suggestions": suggestions,
        "responses": {},
        "vectors": {},
    }


def studio_config(labels: Sequence[str], question: str, shown: Iterable[str]) -> str:
    """Label Studio's labelling interface for these tasks: one choice, with a key for each label."""
    choices = "".join(f'    <Choice value="{escaped(label)}"/>\n' for label in labels)
    names = "".join(f'  <Header name="{name}_of" value="${name}"/>\n' for name in shown)
    return (
        f'<View>\n{names}  <Text name="{TEXT}" value="${TEXT}"/>\n'
        f'  <Choices name="{escaped(question)}" toName="{TEXT}" choice="single" showInline="true">\n{choices}'
        "  </Choices>\n</View>\n"
    )
