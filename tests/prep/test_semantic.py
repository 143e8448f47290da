"""Semantic duplicates: compared with all pairs by numpy, embedded once, and never of what was masked."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.errors import InvalidInput
from headrace.handoff.schemas import check_schema
from headrace.handoff.versions import HandoffStore
from headrace.prep import hyperplanes
from headrace.prep.corpus import Corpus
from headrace.prep.dedup_settings import Deduplication
from headrace.prep.dropped_documents import dropped_of_shard, judged_now
from headrace.prep.embeddings import (
    MODEL,
    MODEL_SETTINGS,
    embed_shard,
    embeddings_of,
    known_embeddings,
    model_settings_digest,
)
from headrace.prep.personal_data import PersonalData
from headrace.prep.rule_shares import rule_shares
from headrace.prep.semantic_settings import SemanticDuplicates
from headrace.prep.verdicts import judged_shards
from headrace.store.local import LocalStore
from tests.prep.builders import make_corpus, make_raw
from tests.prep.test_verdicts import ALL_RULES_OFF, Site, document, in_one_run, make_shards, many_runs
from tests.prep.word_vectors import BY_WORDS, WordEmbedder, embedded

CORPUS = make_corpus(rules=ALL_RULES_OFF, semantic_duplicates=BY_WORDS)


def judged(corpus: Corpus, *shards: list[dict[str, Any]]) -> dict[str, tuple[Any, ...]]:
    return in_one_run(corpus, embedded(corpus, make_shards(*shards)))


def pairs_at(cosine: float, *, number: int, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(5)
    one, other = (draw.standard_normal((number, dimension)) for _ in range(2))
    one /= np.linalg.norm(one, axis=1, keepdims=True)
    other -= (one * other).sum(axis=1, keepdims=True) * one
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    return one, cosine * one + np.sqrt(1 - cosine**2) * other


@pytest.mark.parametrize("cosine", [0.8, 0.95, 0.999])
def test_of_pairs_at_the_threshold_as_many_share_a_key_as_is_promised(cosine: float) -> None:
    bands = hyperplanes.bands(cosine)
    assert bands[0] <= hyperplanes.NUM_BANDS_MAX
    nothing = np.zeros(2_000, np.uint64)
    one, other = (
        hyperplanes.keys(vectors.astype(np.float16), nothing, *bands)
        for vectors in pairs_at(cosine, number=2_000, dimension=48)
    )
    share = (one == other).any(axis=1).mean()
    promised = 1 - hyperplanes.missed_share(cosine, *bands)
    assert promised >= hyperplanes.RECALL_MIN
    # Two thousand pairs tell it to within 0.003, one standard deviation.
    assert abs(share - promised) < 0.01


def test_keys_are_these_on_every_machine() -> None:
    vectors = np.eye(3, 8, dtype=np.float16)
    found = hyperplanes.keys(vectors, np.arange(3, dtype=np.uint64), 2, 20)
    assert [[f"{key:016x}" for key in row] for row in found.tolist()] == [
        ["77154178c20ceaef", "a06772eafbfc1f63"],
        ["12284bdf5052f8fd", "619887fe9b097787"],
        ["b2c6075161cfc7f9", "4e82fe144c50c7df"],
    ]


def test_every_verdict_holds_by_all_pairs_and_hardly_one_is_missed() -> None:
    """Clusters around the threshold, of texts without a common word."""
    draw, number = np.random.default_rng(3), 900
    centres = draw.standard_normal((number // 3, 24))
    vectors = centres[np.arange(number) % len(centres)] + draw.standard_normal((number, 24)) * 0.25

    class Given(WordEmbedder):
        def embed(self, texts: Any) -> Any:
            made = super().embed(texts)
            given = vectors[[int(text.split()[0][1:]) for text in texts]]
            lengths = np.linalg.norm(given, axis=1, keepdims=True)
            return replace(made, vectors=(given / lengths).astype(np.float32))

    documents = [document(f"d{at}", f"w{at} " + "x" * (at % 7), source_line=at) for at in range(number)]
    [shard] = make_shards(documents)
    shard = replace(shard, embeddings=embed_shard(CORPUS, shard, Given(), None).table)
    found = in_one_run(CORPUS, [shard])

    sealed = np.array(shard.embeddings.column("vector").to_pylist(), np.float64)  # pyright: ignore[reportOptionalMemberAccess]
    sealed /= np.linalg.norm(sealed, axis=1, keepdims=True)
    cosines = sealed @ sealed.T
    order = sorted(range(number), key=lambda at: (-len(documents[at]["text"]), at))
    rank = {at: place for place, at in enumerate(order)}
    dropped = {int(name[1:]) for name in found}
    for name, (rule, copy_of, similarity, _) in found.items():
        at, original = int(name[1:]), int(copy_of[1:])
        assert (rule, rank[original] < rank[at], original in dropped) == ("semantic_duplicate", True, False)
        assert similarity == pytest.approx(cosines[at, original], abs=1e-8)
        assert similarity >= 0.9
    kept = [at for at in order if at not in dropped]
    alike = [(at, other) for at in range(number) for other in range(at) if cosines[at, other] >= 0.9]
    left = [pair for pair in alike if pair[0] in kept and pair[1] in kept]
    assert len(dropped) > 200
    assert len(left) <= (1 - hyperplanes.RECALL_MIN) * len(alike)


def test_the_longest_stays_then_the_first_by_file_and_a_dropped_document_is_nobodys_original() -> None:
    words = [f"word{number}" for number in range(14)]
    turned = " ".join(reversed(words))
    found = judged(
        CORPUS,
        [
            document("second", turned, source_file="b"),
            # Longer, and with the same words.
            document("longest", " ".join(words[1::2] + words[::2]) + " word9", source_file="c"),
            document("first", " ".join(words), source_file="a"),
            document("near", " ".join(words[:-1]), source_file="d"),
            document("exact", turned.upper(), source_file="e"),
        ],
    )
    kept = "longest"
    assert {name: verdict[:2] for name, verdict in found.items() if verdict[0]} == {
        "first": ("semantic_duplicate", kept),
        "second": ("semantic_duplicate", kept),
        # Their own originals are gone: what stands for these is named, with which they were not compared.
        "near": ("near_duplicate", kept),
        "exact": ("exact_duplicate", kept),
    }
    assert (found["near"][2], found["first"][2] >= 0.9) == (None, True)


def test_documents_that_differ_beside_their_text_are_no_semantic_duplicates() -> None:
    documents = [document("one", "to turn round"), document("other", "round to turn")]
    assert set(judged(CORPUS, documents)) == {"other"}
    assert judged(replace(CORPUS, duplicate_columns=("text", "term")), documents) == {}


def test_a_text_that_the_model_cannot_read_whole_is_nobodys_copy() -> None:
    """Two files with one licence at their head, and other programs below."""
    head = "one licence for all of it"
    documents = [document(f"d{at}", f"{head} {end}") for at, end in enumerate(["", "", "a wheel", "a stone", "a dam"])]
    documents[1]["text"] = "licence one for it all of"
    [shard] = make_shards(documents)
    reader = WordEmbedder(num_words_max=6)
    made = embed_shard(CORPUS, shard, reader, None)
    check_schema("document_embeddings", made.table)
    assert made.num_truncated == 3
    assert made.table["vector"].is_valid().to_pylist() == [True, True, False, False, False]
    assert embed_shard(CORPUS, shard, reader, made.table).table.equals(made.table)
    assert len(reader.texts) == 5
    assert set(in_one_run(CORPUS, [replace(shard, embeddings=made.table)])) == {"d1"}


def test_a_text_is_embedded_once_and_a_changed_document_alone_anew() -> None:
    texts = [f"text number {number} of many" for number in range(40)]
    [shard] = make_shards([document(f"d{at}", text) for at, text in enumerate([*texts, texts[3]])])
    embedder = WordEmbedder()
    first = embed_shard(CORPUS, shard, embedder, None)
    check_schema("document_embeddings", first.table)
    assert (first.num_embedded, len(embedder.texts), first.dimension) == (40, 40, 32)

    changed = replace(shard, raw=make_raw(*(document(f"e{at}", text) for at, text in enumerate([*texts[1:], "new"]))))
    embedder = WordEmbedder()
    again = embed_shard(CORPUS, changed, embedder, first.table)

    assert embedder.texts == ["new"]
    assert (again.num_embedded, again.num_known) == (1, 39)
    anew = embed_shard(CORPUS, changed, WordEmbedder(), None)
    assert again.table.equals(anew.table)


def test_what_rules_drop_or_mask_reaches_no_embedder() -> None:
    corpus = replace(CORPUS, personal_data=PersonalData(email="mask", phone="drop"), heldout_share=0.02)
    [shard] = make_shards(
        [
            document("masked", "write to jane@example.com about the mill"),
            document("dropped", "call +49 30 901820 about the mill"),
            document("empty", " "),
        ]
    )
    embedder = WordEmbedder()
    table = embed_shard(corpus, shard, embedder, None).table
    assert embedder.texts == ["write to <EMAIL> about the mill"]
    assert [row is None for row in table.column("vector").to_pylist()] == [False, True, True]


def test_vectors_of_other_texts_or_models_are_refused() -> None:
    [shard] = embedded(CORPUS, make_shards([document("one", "a weir"), document("other", "a mill")]))
    other = replace(shard, raw=make_raw(document("one", "a weir"), document("other", "a wheel")))
    message = r"no vector of the text in files/a.jsonl line 2: it was made of other documents, labels or rules. Mat"
    with pytest.raises(InvalidInput, match=message):
        judged_shards(CORPUS, [other])
    # With more rows, those of the next shard would be taken for its own.
    shorter = replace(shard, raw=shard.raw.slice(0, 1))
    with pytest.raises(InvalidInput, match=r"s\[shard-00\] has 2 rows for 1 raw_documents: it was made of others. Mat"):
        judged_shards(CORPUS, [shorter])
    with pytest.raises(InvalidInput, match=r"no document_embeddings were read. Reload the code location"):
        judged_shards(CORPUS, [replace(shard, embeddings=None)])


def test_vectors_of_two_models_are_not_compared(tmp_path: Path) -> None:
    [shard] = embedded(CORPUS, make_shards([document("one", "a weir")]))
    handoffs = HandoffStore(LocalStore(tmp_path))

    def seal(partition: str, model: str, settings: SemanticDuplicates) -> Any:
        attributes = {MODEL: model, MODEL_SETTINGS: model_settings_digest(settings)}
        assert shard.embeddings is not None
        return handoffs.publish(
            "document_embeddings", partition, shard.embeddings, code_version="1", run_id="r", attributes=attributes
        )

    one, two = seal("shard-00", "a", BY_WORDS), seal("shard-01", "b", BY_WORDS)
    with pytest.raises(InvalidInput, match=r"are of two versions of the model words, whose vectors cannot be comp"):
        embeddings_of(CORPUS, [one, two])
    # Another cosine is no other model.
    assert len(embeddings_of(replace(CORPUS, semantic_duplicates=replace(BY_WORDS, cosine=0.8)), [one])) == 1
    renamed = seal("shard-02", "a", replace(BY_WORDS, model="others"))
    with pytest.raises(InvalidInput, match=r"embeddings\[shard-02\] v1 is of another model than semantic_duplicates"):
        embeddings_of(CORPUS, [renamed])
    assert known_embeddings(handoffs, "shard-00", "a") is not None
    assert known_embeddings(handoffs, "shard-00", "b") is None


def test_dropped_documents_and_shares_show_the_cosine_and_its_limit(tmp_path: Path) -> None:
    handoffs = HandoffStore(LocalStore(tmp_path))
    [shard] = embedded(CORPUS, make_shards([document("one", "to turn round"), document("other", "round to turn")]))
    handoffs.publish("raw_documents", shard.key, shard.raw, code_version="1", run_id="r")
    with pytest.raises(InvalidInput, match=r"document_embeddings\[shard-00\], which is not sealed. Materialize doc"):
        dropped_of_shard(CORPUS, handoffs, shard.key, tokenizer=None)
    assert shard.embeddings is not None
    handoffs.publish(
        "document_embeddings",
        shard.key,
        shard.embeddings,
        code_version="1",
        run_id="r",
        attributes={MODEL_SETTINGS: model_settings_digest(BY_WORDS)},
    )
    found = dropped_of_shard(CORPUS, handoffs, shard.key, tokenizer=None)
    assert found.counts["semantic_duplicate"] == 1
    [one] = found.documents
    assert (one.rule, one.limit, one.copy_of) == ("semantic_duplicate", 0.9, "one")
    assert one.measured == pytest.approx(1)
    share = rule_shares(CORPUS, [found.counts], 2)[-1]
    assert (share.rule, share.limit, share.num_dropped) == ("semantic_duplicate", 0.9, 1)


def test_a_corpus_without_the_key_keeps_its_digests_and_the_cosine_changes_them() -> None:
    plain = make_corpus()
    assert replace(CORPUS, semantic_duplicates=None, rules=plain.rules).verdict_digest == plain.verdict_digest
    digests = {
        (one.digest, one.verdict_digest)
        for one in (plain, CORPUS, replace(CORPUS, semantic_duplicates=replace(BY_WORDS, cosine=0.95)))
    }
    assert len(digests) == 3


def test_few_of_random_vectors_share_a_key() -> None:
    draw = np.random.default_rng(1)
    vectors = draw.standard_normal((400, 64))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = hyperplanes.keys(vectors, np.zeros(400, np.uint64), *hyperplanes.bands(0.95))
    shared = [(found[at] == found[at + 1 :]).any(axis=1).sum() for at in range(399)]
    assert sum(shared) < 0.001 * 400 * 399 / 2


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a server without its URL": ({"engine": "openai_http", "model": "e5"}, "engine 'openai_http' needs base_url"),
    "an URL of a whole request": (
        {"engine": "openai_http", "model": "e5", "base_url": "http://host/v1/embeddings"},
        "base_url must end before /embeddings",
    ),
    "an URL for a local model": ({"model": "m", "base_url": "http://a:b@host/v1"}, "leave it out"),
    "characters of a local model": (
        {"model": "m", "characters_max": 9},
        "characters_max is for the engine openai_http",
    ),
    "a model without a name": ({"model": " "}, "model must name an embedding model"),
    "a low cosine": ({"model": "m", "cosine": 0.5}, "cosine must be between 0.8 and 0.999, got 0.5"),
}


@pytest.mark.parametrize("phrase", REFUSED)
def test_settings_that_cannot_be_used_are_refused_when_the_file_is_read(phrase: str) -> None:
    settings, message = REFUSED[phrase]
    with pytest.raises(InvalidInput, match=message):
        SemanticDuplicates(**settings)


def test_verdicts_and_signatures_of_older_vectors_are_refused(tmp_path: Path) -> None:
    """Other weights at the same place: a document was dropped as a copy of one that they find unlike it."""
    shards = make_shards(
        [document("one", "to turn round")],
        [document("other", "round to turn"), document("none", "a weir")],
        [document("alone", "a mill in the water")],
    )
    corpus = many_runs(3, semantic_duplicates=BY_WORDS)
    site = Site(tmp_path, corpus, shards)
    site.embed("words")
    site.sign()
    assert site.duplicates() == {"other": ("semantic_duplicate", "one", 1.0, None)}
    assert site.own_verdict("shard-01").num_rows == 1
    [verdict] = judged_now(corpus, site.handoffs, ["shard-00", "shard-01", "shard-02"])["shard-01"].to_pylist()
    assert verdict["rule"] == "semantic_duplicate"

    old = dict(site.vectors)
    site.embed("other weights")
    assert in_one_run(corpus, site.shards) == {}
    stale = r" v1 was not made of the newest document_embeddings\[shard-0%d\], v2: its rows are of another version"
    for shard in (0, 1, 2):
        with pytest.raises(InvalidInput, match=r"^duplicates\[all\]" + stale % shard):
            site.own_verdict(f"shard-0{shard}")
    with pytest.raises(InvalidInput, match=r"^duplicates\[all\]" + stale % 0):
        judged_now(corpus, site.handoffs, ["shard-00"])
    with pytest.raises(InvalidInput, match=r"^document_signatures\[shard-00\]" + stale % 0):
        site.duplicates()
    # Those of the original's shard alone: no vector of the copy's own shard has changed.
    attributes = old["shard-01"].attributes
    site.seal("document_embeddings", "shard-01", old["shard-01"].table(), attributes=attributes)
    with pytest.raises(InvalidInput, match=r"^duplicates\[all\]" + stale % 0):
        site.own_verdict("shard-01")
    # A corpus that one run compares is judged anew, but not by two models.
    small = replace(corpus, dedup=Deduplication())
    with pytest.raises(InvalidInput, match=r"\[shard-01\] v3 and document_embeddings\[shard-00\] v2 are of two ver"):
        judged_now(small, site.handoffs, ["shard-00"])
