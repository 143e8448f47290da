"""Reviewed rows as a test says them, sealed as a campaign seals them, and pairs of tokens."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from headrace.handoff.schemas import PREFERENCE_EXAMPLES, PROMPTS, SCHEMAS, conform
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.keys import ContentPartition, prompt_id, row_id
from headrace.store.local import LocalStore
from headrace.store.sealed_directory import seal_directory
from headrace.training.examples import ExamplesInput
from headrace.version_sets.sets import VersionSet, VersionSets
from tests.generation.builders import make_version_set
from tests.training_builders import Bench

DAY = "2026-11-22"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One reviewed row."""

    prompt: str
    output: str
    rejected_by: tuple[str, ...] = ()
    variation: int = 0
    term: str | None = None
    finish_reason: str = "stop"
    kept: bool | None = None
    """None: no rule rejects it."""


@dataclass
class ReviewedSite:
    """A store with reviewed rows of some campaigns."""

    directory: Path
    version_set: VersionSet = field(default_factory=make_version_set)

    def __post_init__(self) -> None:
        self.handoffs = HandoffStore(LocalStore(self.directory))
        VersionSets(self.handoffs.objects).put(self.version_set)

    def put(
        self,
        answers: Sequence[Answer],
        *,
        day: str = DAY,
        shard: int = 0,
        campaign: str = "glossary",
        version_set: VersionSet | None = None,
    ) -> Handoff:
        """Seals prompts, content and review of one partition, each naming what it was made from."""
        key = ContentPartition(day=day, campaign=campaign, shard=shard).key
        made_by = version_set or self.version_set
        VersionSets(self.handoffs.objects).put(made_by)
        terms = {answer.prompt: answer.term for answer in answers}
        ids = {prompt: prompt_id(campaign, day, prompt, 0) for prompt in terms}
        prompts = pa.table([[*ids.values()], [*range(len(ids))], [*ids], [*terms.values()]], schema=PROMPTS)
        rows = [self._row(answer, ids[answer.prompt], number, made_by.id) for number, answer in enumerate(answers)]
        of_prompts = self._publish("prompts", key, prompts, [])
        content = self._publish("generated_content", key, _table("generated_content", rows), [of_prompts])
        return self._publish("reviewed_content", key, _table("reviewed_content", rows), [content])

    def put_documents(self, heldout: Iterable[tuple[str | None, str]], shard: str = "shard-00") -> Handoff:
        rows = [
            {
                "document_id": f"d{number}",
                "term": term,
                "category": None,
                "text": text,
                "examples": [],
                "split": "heldout",
                "label": None,
            }
            for number, (term, text) in enumerate(heldout)
        ]
        return self._publish("clean_documents", shard, _table("clean_documents", rows), [])

    def _row(self, answer: Answer, prompt: str, number: int, version_set: str) -> dict[str, Any]:
        kept = not answer.rejected_by if answer.kept is None else answer.kept
        return {
            "row_id": row_id(prompt, version_set, answer.variation),
            "prompt_id": prompt,
            "position": number,
            "prompt": answer.prompt,
            "output": answer.output,
            "media": None,
            "version_set": version_set,
            "seed": 0,
            "num_prompt_tokens": 4,
            "num_output_tokens": 4,
            "finish_reason": answer.finish_reason,
            "error": None,
            "kept": kept,
            "rejected_by": list(answer.rejected_by),
        }

    def _publish(self, asset: str, key: str, table: pa.Table, inputs: Sequence[Handoff]) -> Handoff:
        return self.handoffs.publish(
            asset,
            key,
            table,
            code_version="1",
            run_id="test",
            input_versions={f"{one.asset}[{key}]": f"v{one.version} {one.content_digest}" for one in inputs},
        )


def answers_of(question: str, kept: Iterable[str], rejected: Iterable[str], **told: Any) -> list[Answer]:
    texts = [*((text, ()) for text in kept), *((text, ("length",)) for text in rejected)]
    return [
        Answer(prompt=question, output=text, rejected_by=rules, variation=variation, **told)
        for variation, (text, rules) in enumerate(texts)
    ]


def token_pairs(splits: Sequence[str], *, seed: int = 0, vocab: int = 256) -> pa.Table:
    """PREFERENCE_EXAMPLES of random tokens, a pair for each of `splits`."""
    draw = np.random.default_rng(seed)
    rows = [
        {
            "split": split,
            "prompt_ids": draw.integers(3, vocab, draw.integers(4, 12)).tolist(),
            "chosen_ids": draw.integers(3, vocab, draw.integers(2, 9)).tolist(),
            "rejected_ids": draw.integers(3, vocab, draw.integers(2, 9)).tolist(),
        }
        for split in splits
    ]
    return pa.Table.from_pylist(rows, schema=PREFERENCE_EXAMPLES)


def make_pair_bench(directory: Path, model: Path) -> Bench:
    """A store with a sealed base model and two partitions of pairs, as of data prep and as of reviewed rows."""
    store = LocalStore(directory / "store")
    inputs = []
    for shard in range(2):
        pairs = token_pairs(["heldout" if number % 5 == 0 else "train" for number in range(20)], seed=shard)
        for asset in ("training_examples", "preference_pairs"):
            of = HandoffStore(store).publish(asset, f"shard-0{shard}", pairs, code_version="1", run_id="test")
        inputs.append(ExamplesInput(partition=of.partition, version=of.version, content_digest=of.content_digest))
    return Bench(store, directory / "work", seal_directory(store, model).digest, tuple(inputs))


def _table(asset: str, rows: Sequence[dict[str, Any]]) -> pa.Table:
    names = SCHEMAS[asset].names
    return conform(asset, pa.Table.from_pylist([{name: row[name] for name in names} for row in rows], SCHEMAS[asset]))
