"""Preference pairs of reviewed rows: what the review kept against what it rejected, of the same question.

Which rows meet is decided by their ids alone: of each question the kept rows and the rejected ones, both in the order
of their ids, are paired one by one. So the same rows give the same pairs, in any order of runs and on any machine. Of
equal texts one row counts, and a text that was kept once and rejected once is neither.

A question is held out if its term, or its text where it has none, is held out by the corpus file's share, by the
recipe's own, or by what data prep has sealed. Its pairs measure; they never train.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from headrace.chat.tokenizer import ChatTokenizer
from headrace.chat.turn_spans import end_of_turn
from headrace.errors import InvalidInput
from headrace.generation.reviewed_answers import ReviewedAnswers, reviewed_answers
from headrace.generation.rolled_back import sets_digest
from headrace.handoff.schemas import PREFERENCE_PAIRS
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.keys import digest_text
from headrace.prep.fitting import fitted_pair
from headrace.prep.pairs import pairs_table, tokenized_pairs
from headrace.prep.split import is_heldout, split_key
from headrace.prep.token_spans import TokenizedExample
from headrace.store.objects import canonical_json
from headrace.training.preference_settings import RowPairs

CLEAN_DOCUMENTS = "clean_documents"
_SIDES = ("train", "heldout")


@dataclass(frozen=True)
class PairSources:
    """Everything that pairs are made of, as it was found.

    Attributes:
        heldout_keys: `split_key` of every sealed held-out document.
        heldout_share: the larger of the corpus file's and the recipe's.
    """

    settings: RowPairs
    answers: ReviewedAnswers
    heldout_keys: frozenset[int]
    heldout_share: float
    made_of: Mapping[str, Handoff] = field(default_factory=dict)

    @property
    def made_by(self) -> dict[str, str]:
        """What decides the pairs beside the versions that they are made of."""
        return {
            "rows": canonical_json(asdict(self.settings)).decode(),
            "heldout_share": repr(self.heldout_share),
            "rolled_back": sets_digest(self.answers.aborted),
        }


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """`table`: PREFERENCE_PAIRS, train before held-out."""

    table: pa.Table
    figures: Mapping[str, int | str]


def open_sources(handoffs: HandoffStore, settings: RowPairs, *, corpus_heldout_share: float) -> PairSources:
    """Reads the rows that pairs may be made of, and what data prep holds out.

    Raises: as `reviewed_answers`.
    """
    answers = reviewed_answers(handoffs, settings.campaigns, since=settings.since)
    documents = {
        f"{CLEAN_DOCUMENTS}[{shard}]": handoffs.open(CLEAN_DOCUMENTS, shard)
        for shard in handoffs.partitions(CLEAN_DOCUMENTS)
    }
    return PairSources(
        settings=settings,
        answers=answers,
        heldout_keys=frozenset(key for one in documents.values() for key in _heldout_keys(one)),
        heldout_share=max(corpus_heldout_share, settings.heldout_share),
        made_of={**answers.made_of, **documents},
    )


def build_pairs(sources: PairSources, tokenizers: "Tokenizers") -> Pairs:
    """Pairs the rows, and makes ids of both answers.

    Raises:
        InvalidInput: there is no pair to learn, or none to measure; the text counts what became of the rows. Or the
            base model's chat template refuses what was asked.
    """
    answers, settings = sources.answers, sources.settings
    chosen = paired(answers.rows, settings.pairs_per_prompt)
    texts = answers.texts({*chosen["row_id"], *chosen["rejected_row_id"]})
    made: dict[str, list[tuple[dict[str, Any], TokenizedExample]]] = {side: [] for side in _SIDES}
    num_overlong = 0
    for asking, of_asking in chosen.group_by("asking", maintain_order=True):
        asked, member = answers.askings[int(str(asking[0]))]
        rows = of_asking.to_dicts()
        messages = [asked.messages(member, row["prompt"]) for row in rows]
        found = zip(rows, messages, _tokenized(rows, messages, texts, tokenizers.dated(asked.date)), strict=True)
        for row, prompt, example in found:
            if not fitted_pair(example, settings.sequence_length, "drop").examples:
                num_overlong += 1
                continue
            side = _SIDES[_is_heldout(row["term"], row["prompt"], sources)]
            made[side].append((_told(row, prompt, texts), example))
    figures = {
        "num_rows_in": answers.num_rows,
        "num_without_answer": answers.num_without_answer,
        "num_of_chains": answers.num_of_chains,
        "num_neither": answers.num_neither,
        "num_prompts": answers.rows.select("asking", "prompt").n_unique(),
        "num_prompts_paired": chosen.select("asking", "prompt").n_unique(),
        "num_overlong": num_overlong,
        **{f"num_pairs_{side}": len(of_side) for side, of_side in made.items()},
        "left_out": "\n".join(answers.left_out) or "nothing",
    }
    _refuse_if_useless(settings, answers, figures)
    return Pairs(table=pa.concat_tables([_table(side, made[side]) for side in _SIDES]), figures=figures)


class Tokenizers:
    """The base model's tokenizer, by the date that its chat template gets."""

    def __init__(self, base: Any) -> None:
        """Args: base: the model's directory."""
        self._base = base
        self._made: dict[str | None, ChatTokenizer] = {}

    @property
    def digest(self) -> str:
        return self.dated(None).digest

    def dated(self, date: str | None) -> ChatTokenizer:
        """Raises: InvalidInput: as `ChatTokenizer`."""
        if date not in self._made:
            self._made[date] = ChatTokenizer(self._base, date=date)
        return self._made[date]


def paired(rows: pl.DataFrame, pairs_per_prompt: int) -> pl.DataFrame:
    """Kept rows with the rejected ones that they meet, as `rejected_row_id` and `rejected_is_whole`; by the kept rows'
    ids.

    Args:
        rows: `reviewed_answers.SCHEMA`.
    """
    question, text = ["asking", "prompt"], ["asking", "prompt", "text"]
    sides = [rows.filter(is_kept) for is_kept in (pl.col("kept"), ~pl.col("kept"))]
    firsts = [one.sort("row_id").unique(subset=text, keep="first", maintain_order=True) for one in sides]
    ranked = [
        one.join(other, on=text, how="anti", maintain_order="left").with_columns(
            pl.int_range(pl.len()).over(question).alias("rank")
        )
        for one, other in (firsts, firsts[::-1])
    ]
    rejected = ranked[1].select(
        *question,
        "rank",
        pl.col("row_id").alias("rejected_row_id"),
        pl.col("is_whole").alias("rejected_is_whole"),
    )
    met = ranked[0].filter(pl.col("rank") < pairs_per_prompt).join(rejected, on=[*question, "rank"], how="inner")
    return met.sort("row_id")


def _heldout_keys(documents: Handoff) -> set[int]:
    found = documents.lazy(["term", "text", "split"]).filter(pl.col("split") == "heldout").collect()
    return {split_key(term, text) for term, text in found.select("term", "text").rows()}


def _is_heldout(term: str | None, prompt: str, sources: PairSources) -> bool:
    """What is sealed is looked up by term and by text: a conversation's term is its first question."""
    names = {prompt if term is None else term, prompt}
    return any(
        is_heldout(name, sources.heldout_share) or split_key(None, name) in sources.heldout_keys for name in names
    )


def _tokenized(
    rows: Sequence[Mapping[str, Any]],
    messages: Sequence[Any],
    texts: Mapping[str, tuple[str, list[str], str]],
    tokenizer: ChatTokenizer,
) -> list[TokenizedExample]:
    documents = [
        {
            "document_id": row["row_id"],
            "messages": json.dumps(
                {
                    "prompt": prompt,
                    "chosen": [{"role": "assistant", "content": texts[row["row_id"]][0]}],
                    "rejected": [{"role": "assistant", "content": texts[row["rejected_row_id"]][0]}],
                }
            ),
        }
        for row, prompt in zip(rows, messages, strict=True)
    ]
    end = _end_ids(tokenizer, messages[0]) if messages else []
    examples = tokenized_pairs(documents, tokenizer)
    return [
        _without_ends(example, end, (row["is_whole"], row["rejected_is_whole"]))
        for row, example in zip(rows, examples, strict=True)
    ]


def _end_ids(tokenizer: ChatTokenizer, messages: Any) -> list[int]:
    behind = end_of_turn(tokenizer, messages).rstrip()
    [encoded] = tokenizer.encode_batch([behind])
    return list(encoded.ids)


def _without_ends(example: TokenizedExample, end: list[int], are_whole: tuple[bool, bool]) -> TokenizedExample:
    """An answer that the token limit cut off did not end: nobody should learn that it did, or did not."""
    parts = [example.ids[start:stop] for start, stop in example.spans]
    for place, is_whole in enumerate(are_whole):
        part = parts[place]
        if not is_whole and len(part) > len(end) and part[-len(end) :].tolist() == end:
            parts[place] = part[: -len(end)]
    prompt = example.ids[: example.spans[0][0]]
    middle = len(prompt) + len(parts[0])
    ids = np.concatenate([prompt, *parts])
    return TokenizedExample(ids=ids, spans=((len(prompt), middle), (middle, len(ids))))


def _told(row: Mapping[str, Any], messages: Any, texts: Mapping[str, tuple[str, list[str], str]]) -> dict[str, Any]:
    chosen, _, chosen_partition = texts[row["row_id"]]
    rejected, rules, rejected_partition = texts[row["rejected_row_id"]]
    return {
        "pair_id": digest_text("pair", row["row_id"], row["rejected_row_id"]),
        "prompt": row["prompt"],
        "term": row["term"],
        "messages": json.dumps(messages, ensure_ascii=False),
        "chosen": chosen,
        "rejected": rejected,
        "chosen_row_id": row["row_id"],
        "rejected_row_id": row["rejected_row_id"],
        "chosen_partition": chosen_partition,
        "rejected_partition": rejected_partition,
        "rejected_by": rules,
    }


def _table(side: Any, made: Sequence[tuple[Mapping[str, Any], TokenizedExample]]) -> pa.Table:
    ids = pairs_table(side, [example for _, example in made])
    told = pa.Table.from_pylist([one for one, _ in made], schema=pa.schema(list(PREFERENCE_PAIRS)[len(ids.schema) :]))
    return pa.Table.from_arrays([*ids.columns, *told.columns], schema=PREFERENCE_PAIRS)


def _refuse_if_useless(settings: RowPairs, answers: ReviewedAnswers, figures: Mapping[str, int | str]) -> None:
    """Raises: InvalidInput: a training on these pairs could not begin, or could not be measured."""
    num_kept = int(answers.rows["kept"].sum())
    counted = (
        f"Of {figures['num_rows_in']:,} reviewed rows of {', '.join(settings.campaigns)} {num_kept:,} are kept and "
        f"{answers.rows.height - num_kept:,} rejected for their text, of {figures['num_prompts']:,} questions; "
        f"{figures['num_prompts_paired']:,} questions have both, {figures['num_overlong']:,} pairs are longer than "
        f"sequence_length {settings.sequence_length:,}"
    )
    if not figures["num_pairs_train"] and figures["num_pairs_heldout"]:
        raise InvalidInput(
            f"{counted}, and all {figures['num_pairs_heldout']:,} pairs are of questions that are held out: none may "
            "be learnt. Take campaigns whose prompts training may see, more rows, or a lower heldout_share."
        )
    if not figures["num_pairs_train"]:
        raise InvalidInput(
            f"{counted}: there is no pair. Give the campaign's prompts several variations, or take more days or "
            "campaigns."
        )
    if not figures["num_pairs_heldout"]:
        raise InvalidInput(
            f"{counted}, and none of the {figures['num_pairs_train']:,} pairs is held out, so nothing could be "
            "measured. Raise heldout_share in the recipe's preference.rows, or take more rows."
        )
