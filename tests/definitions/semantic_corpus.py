"""Prepares a corpus that looks for semantic duplicates, as the code location does it; prints what happened.

A process of its own, since the graph is made from the corpus file when definitions are loaded.
"""

import json
import sys
from typing import Any

import pyarrow as pa

from tests.definitions.compared_corpus import REPOSITORY, Corpus
from tests.prep.builders import gloss

SHARDS = ("shard-00", "shard-01")


def main() -> dict[str, Any]:
    corpus = Corpus()
    corpus.requested()
    texts = ["a wheel that turns in the water of a mill", "in the mill water of a wheel that turns a", "a weir"]
    corpus.write_shard("shard-00", range(2, 10))
    corpus.write_rows("shard-01", [gloss(90 + at, gloss=text) for at, text in enumerate(texts)])
    told: dict[str, Any] = {"jobs": sorted(job.name for job in REPOSITORY.get_all_jobs())}
    told["prepared"] = corpus.run("prepare", *SHARDS)
    told["after labels"] = corpus.requested()
    told["embedded"] = corpus.run("embed_documents", *SHARDS)
    told["after vectors"] = corpus.requested()
    told["found"] = corpus.run("find_duplicates", None)
    told["duplicates"] = corpus.rows("duplicates", "all")
    corpus.run("make_examples", *SHARDS)
    told["kept"] = corpus.kept(SHARDS)["shard-01"]

    told["signed"] = corpus.run("sign_documents", "shard-00")
    corpus.requested()

    corpus.write_rows("shard-01", [gloss(90 + at, gloss=text) for at, text in enumerate([*texts[:2], "a dam"])])
    corpus.run("prepare", "shard-01")
    told["after a change"] = corpus.requested()
    told["embedded again"] = corpus.run("embed_documents", "shard-01")
    told["versions"] = {shard: corpus.version("document_embeddings", shard) for shard in SHARDS}

    made = corpus.handoffs.open("document_embeddings", "shard-00")
    rows = made.table().to_pylist()
    others = [row | {"vector": row["vector"] and row["vector"][::-1]} for row in rows]
    table = pa.Table.from_pylist(others, schema=made.table().schema)
    corpus.handoffs.publish(
        made.asset, made.partition, table, code_version="1", run_id="r", attributes=dict(made.attributes)
    )
    told["with older vectors"] = corpus.run("make_examples", "shard-00")
    return told


if __name__ == "__main__":
    json.dump(main(), sys.stdout)
