"""De-duplication as our runs do it, of texts that have nothing beside them: no id, no rule, in the form they are in."""

from collections.abc import Iterable

import numpy as np
import polars as pl
import pyarrow as pa

from headrace.handoff.schemas import RAW_DOCUMENTS
from headrace.prep.corpus import Corpus
from headrace.prep.dedup_settings import NearDuplicates
from headrace.prep.example_forms import ExamplePrompt
from headrace.prep.normalization import Normalization
from headrace.prep.rule_sets import QualityRules
from headrace.prep.spilled_table import SpilledTable
from headrace.prep.verdicts import CorpusShard, judged_shards


def kept_of(raw: pa.Table, near: NearDuplicates | None) -> np.ndarray:
    """Ascending places of the documents that are no copies."""
    corpus = Corpus(
        name="texts",
        files=("none",),
        prompt=ExamplePrompt(user="Write."),
        normalize=Normalization(text="code"),
        rules=QualityRules.of("none"),
        near_duplicates=near,
        twins_jaccard=None,
    )
    return without_copies(corpus, raw)[0]


def without_copies(corpus: Corpus, raw: pa.Table) -> tuple[np.ndarray, pa.Table]:
    """Ascending places of the documents that no rule of copies drops, and the verdict, which knows the other rules."""
    verdict = judged_shards(corpus, [CorpusShard(key="", raw=raw, labels={})]).of_shard[""]
    is_kept = np.ones(raw.num_rows, np.bool_)
    rules = verdict.column("rule").to_pylist()
    places = verdict.column("place").to_numpy()
    is_kept[places[[rule is not None and rule.endswith("_duplicate") for rule in rules]]] = False
    return np.flatnonzero(is_kept), verdict


def raw_documents(batches: Iterable[pa.RecordBatch]) -> pa.Table:
    """RAW_DOCUMENTS of batches that have a column `text`, in a temporary file that is mapped, as runs read theirs."""
    raw = SpilledTable(RAW_DOCUMENTS)
    line = 1
    for batch in batches:
        num_rows = batch.num_rows
        nothing = pa.nulls(num_rows, pa.string())
        # Made by polars: `pa.array`, `pa.scalar` and `pa.repeat` import pandas where it is installed.
        bounds = pl.repeat(0, num_rows + 1, dtype=pl.Int32, eager=True).to_arrow()
        empty = pl.repeat("", num_rows, eager=True).to_arrow().cast(pa.string())
        columns = {
            "document_id": empty,
            "term": nothing,
            "category": nothing,
            "text": batch.column("text").cast(pa.string()),
            "examples": pa.ListArray.from_arrays(bounds, nothing.slice(0, 0)),
            "source_file": empty,
            "source_line": pl.int_range(line, line + num_rows, eager=True).to_arrow(),
        }
        raw.add_batch(pa.RecordBatch.from_arrays([columns[one] for one in RAW_DOCUMENTS.names], schema=RAW_DOCUMENTS))
        line += num_rows
    return raw.table()
