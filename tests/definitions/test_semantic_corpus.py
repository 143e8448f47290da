"""A corpus whose semantic duplicates are found by a server's vectors, through its jobs and its automation."""

from pathlib import Path
from typing import Any

from aiohttp import web

from simulation.servers.chat import ChatServer, served
from tests.definitions.corpus_process import told_by
from tests.prep.word_vectors import WordEmbedder

SHARDS = ["shard-00", "shard-01"]


async def by_words(server: ChatServer, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    vectors = WordEmbedder().embed(body["input"]).vectors.tolist()
    data = [{"index": at, "embedding": vector} for at, vector in enumerate(vectors)]
    return web.json_response({"data": data})


def test_vectors_are_made_in_runs_of_their_own_for_which_what_finds_copies_waits(
    tmp_path: Path, tiny_model: Path
) -> None:
    with served(by_words) as server:
        semantic = {"engine": "openai_http", "model": "words", "base_url": server.url, "cosine": 0.999}
        corpus = {"num_shards": 2, "semantic_duplicates": semantic}
        told = told_by("semantic_corpus", tmp_path, tiny_model, corpus)
        sent = [text for request in server.bodies for text in request["input"]]
    jobs = {"prepare", "embed_documents", "sign_documents", "compare_bucket", "find_duplicates", "make_examples"}
    assert jobs <= set(told["jobs"])
    assert [told[name] for name in ("prepared", "embedded", "found", "signed")] == [[]] * 4
    assert told["after labels"] == {"document_embeddings": SHARDS}
    assert told["after vectors"] == {"document_signatures": SHARDS, "duplicates": [None]}
    [row] = [row for row in told["duplicates"] if row["rule"] == "semantic_duplicate"]
    assert (row["shard"], row["place"], row["copy_of_source_line"]) == ("shard-01", 1, 1)
    assert row["similarity"] > 0.999
    assert told["kept"] == ["term 90", "term 92"]

    assert told["after a change"] == {"document_embeddings": ["shard-01"]}
    assert told["embedded again"] == []
    assert told["versions"] == {"shard-00": 1, "shard-01": 2}
    assert sent[-1] == "a dam"
    assert len(sent) == len(set(sent)) == 12

    [refusal] = told["with older vectors"]
    assert "duplicates[all] v1 was not made of the newest document_embeddings[shard-00], v2: its rows are" in refusal
