"""What is decided over all shards: by one run, by many, in any order, and against brute force in plain Python."""

import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import InvalidInput
from headrace.handoff.schemas import DOCUMENT_SIGNATURES
from headrace.handoff.versions import Handoff, HandoffStore
from headrace.prep import whole_corpus
from headrace.prep.clean_shards import clean_shard
from headrace.prep.corpus import Corpus
from headrace.prep.dedup_settings import Deduplication, NearDuplicates
from headrace.prep.embeddings import MODEL, MODEL_SETTINGS, model_settings_digest
from headrace.prep.example_forms import ExampleForm, ExamplePrompt
from headrace.prep.label_settings import LabelFile, LabelJudge, Labels
from headrace.prep.labels import LABELS
from headrace.prep.leaks import find_leaks
from headrace.prep.rule_sets import QualityRules
from headrace.prep.signatures import KEY_ROWS, KeyFiles
from headrace.prep.spilled_table import SpilledTable
from headrace.prep.split import MovedKeys, split_of
from headrace.prep.verdicts import CorpusShard, judged_shards
from headrace.store.local import LocalStore
from simulation.plain_tokens import reference_sequences
from tests.prep.builders import make_corpus, make_raw
from tests.prep.test_dedup import overlap, sentences
from tests.prep.word_vectors import BY_WORDS, embedded

ALL_RULES_OFF = QualityRules.of("none")
WITHOUT_TERM = ExamplePrompt(user="Say something.")


def document(name: str, text: str, **changes: Any) -> dict[str, Any]:
    return {"document_id": name, "term": f"term of {name}", "text": text} | changes


def make_shards(*shards: Sequence[Mapping[str, Any]]) -> list[CorpusShard]:
    return [
        CorpusShard(key=f"shard-{number:02d}", raw=make_raw(*documents), labels={})
        for number, documents in enumerate(shards)
    ]


def by_document(shards: Sequence[CorpusShard], of_shard: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """What is decided, without the numbers of rows: they are another's in another order."""
    found = {}
    for shard in shards:
        ids = shard.raw.column("document_id").to_pylist()
        for row in of_shard[shard.key].to_pylist():
            similarity = round(row["similarity"], 9) if row["similarity"] else None
            found[ids[row["place"]]] = (row["rule"], row["copy_of_document_id"], similarity, row["split"])
    return found


def in_one_run(corpus: Corpus, shards: Sequence[CorpusShard]) -> dict[str, tuple[Any, ...]]:
    return by_document(shards, judged_shards(corpus, shards).of_shard)


class Site:
    """Seals the parts that many runs make, as their assets do."""

    def __init__(self, directory: Path, corpus: Corpus, shards: Sequence[CorpusShard]) -> None:
        self.handoffs, self.corpus, self.shards = HandoffStore(LocalStore(directory)), corpus, shards
        self.raw = {one.key: self.seal("raw_documents", one.key, one.raw) for one in shards}
        self.labels = {one.key: self.seal("labels", one.key, LABELS.empty_table()) for one in shards}
        self.vectors: dict[str, Handoff] = {}

    def seal(
        self, asset: str, partition: str, rows: Any, *inputs: Handoff, attributes: Any = None, **options: Any
    ) -> Handoff:
        versions = {f"{one.asset}[{one.partition}]": f"v{one.version} {one.content_digest}" for one in inputs}
        return self.handoffs.publish(
            asset,
            partition,
            rows,
            code_version="1",
            run_id="r",
            input_versions=versions,
            attributes={"corpus": self.corpus.verdict_digest} | (attributes or {}),
            **options,
        )

    def embed(self, key: str) -> None:
        """Args: key: of the model, whose settings are the same for any."""
        attributes = {MODEL: key, MODEL_SETTINGS: model_settings_digest(BY_WORDS)}
        self.shards = embedded(self.corpus, self.shards, key)
        for one in self.shards:
            self.vectors[one.key] = self.seal("document_embeddings", one.key, one.embeddings, attributes=attributes)

    def inputs(self, key: str) -> list[Handoff]:
        return [of_all[key] for of_all in (self.raw, self.labels, self.vectors) if key in of_all]

    def sign(self, *keys: str) -> None:
        for one in self.shards:
            if one.key in keys or not keys:
                batches, inputs = whole_corpus.signatures(self.corpus, one), self.inputs(one.key)
                self.seal("document_signatures", one.key, batches, *inputs, schema=DOCUMENT_SIGNATURES)

    def fill_buckets(self, *keys: str) -> None:
        signed = {one.key: self.handoffs.open("document_signatures", one.key) for one in self.shards}
        made_by = whole_corpus.made_by_of_bucket(self.corpus)
        for key in keys or self.corpus.dedup.bucket_keys:
            table = whole_corpus.bucket(self.corpus, key, signed)
            self.seal("duplicate_buckets", key, table, *signed.values(), attributes=made_by)

    def duplicates(self) -> dict[str, tuple[Any, ...]]:
        inputs = [sealed for one in self.shards for sealed in self.inputs(one.key)]
        judged = whole_corpus.duplicates(self.corpus, self.handoffs, self.shards, inputs)
        self.seal("duplicates", "all", pa.concat_tables(judged.of_shard.values()), *inputs)
        return by_document(self.shards, judged.of_shard)

    def own_verdict(self, key: str) -> pa.Table:
        return whole_corpus.own_verdict(self.corpus, self.handoffs, [self.raw[key], self.labels[key]])


@pytest.fixture(autouse=True, scope="module")
def _buckets_of_any_size() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whole_corpus, "_BUCKET_ROWS_MIN", 0)
        yield


def many_runs(num_shards: int, **changes: Any) -> Corpus:
    dedup = Deduplication(one_run_below=0, num_buckets=5)
    return make_corpus(num_shards=num_shards, dedup=dedup, rules=ALL_RULES_OFF, **changes)


def test_of_copies_in_two_shards_the_longest_is_kept_and_of_equally_long_ones_the_first_by_file_and_line() -> None:
    text = "a channel that carries water to the wheel of a mill and away from it to the river"
    shards = make_shards(
        [
            document("short", text, source_file="a", source_line=1),
            document("later line", text + " below", source_file="b", source_line=9),
        ],
        [document("earlier line", text + " below", source_file="b", source_line=8)],
        [document("later file", text + " below", source_file="c", source_line=1)],
    )
    found = judged_shards(make_corpus(num_shards=3), shards).of_shard

    assert by_document(shards, found) == {
        "short": ("near_duplicate", "earlier line", round(16 / 17, 9), None),
        "later line": ("exact_duplicate", "earlier line", None, None),
        "later file": ("exact_duplicate", "earlier line", None, None),
    }
    [row] = found["shard-02"].to_pylist()
    named = (row["copy_of_shard"], row["copy_of_source_file"], row["copy_of_source_line"])
    assert named == ("shard-01", "b", 8)


words = st.sampled_from([f"w{number}" for number in range(12)])
texts = st.lists(words, min_size=0, max_size=14).map(" ".join)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from([None, *"abcdefgh"]), texts), max_size=24),
    st.sampled_from([("text",), ("term", "text")]),
    st.randoms(use_true_random=False),
)
def test_any_order_of_shards_and_rows_in_one_run_or_many_gives_the_same_verdicts(
    drawn: list[tuple[int, str | None, str]], columns: tuple[str, ...], draw: random.Random
) -> None:
    rows = [
        (at, document(f"d{number}", text, term=term, source_line=number))
        for number, (at, term, text) in enumerate(drawn)
    ]
    shards = make_shards(*([row for shard, row in rows if shard == at] for at in range(3)))
    corpus = many_runs(
        3, heldout_share=0.5, duplicate_columns=columns, prompt=WITHOUT_TERM, semantic_duplicates=BY_WORDS
    )
    shards = embedded(corpus, shards)
    expected = in_one_run(corpus, shards)

    order = [0, 1, 2]
    draw.shuffle(order)
    draw.shuffle(rows)
    shuffled = make_shards(*([row for shard, row in rows if shard == at] for at in order))
    assert in_one_run(corpus, embedded(corpus, shuffled)) == expected
    with TemporaryDirectory() as directory:
        site = Site(Path(directory), corpus, shards)
        site.sign()
        site.fill_buckets("bucket-00", "bucket-03")
        assert site.duplicates() == expected


@settings(max_examples=40, deadline=None)
@given(st.lists(texts, max_size=30))
def test_every_verdict_is_what_plain_python_finds_by_comparing_all_pairs(drawn: list[str]) -> None:
    documents = [document(f"d{number}", text, source_line=number) for number, text in enumerate(drawn)]
    shards = make_shards(documents[::2], documents[1::2])
    found = in_one_run(make_corpus(num_shards=2, rules=ALL_RULES_OFF), shards)

    order = sorted(range(len(drawn)), key=lambda at: (-len(drawn[at]), at))
    sets = [reference_sequences(text, 3) for text in drawn]
    dropped: dict[str, str] = {}
    first: dict[str, int] = {}
    for at in order:
        if not drawn[at].strip():
            dropped[f"d{at}"] = "text_empty"
        elif first.setdefault(drawn[at], at) != at:
            dropped[f"d{at}"] = "exact_duplicate"
    kept: list[int] = []
    for at in order:
        if f"d{at}" in dropped:
            continue
        if any(overlap(sets[at], sets[other]) >= 0.8 for other in kept):
            dropped[f"d{at}"] = "near_duplicate"
        else:
            kept.append(at)
    assert {name: verdict[0] for name, verdict in found.items() if verdict[0]} == dropped
    for name, (rule, copy_of, similarity, _) in found.items():
        if rule == "near_duplicate":
            assert copy_of not in dropped
            assert similarity == round(overlap(sets[int(name[1:])], sets[int(copy_of[1:])]), 9)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([None, *"abcdefghijkl"]), texts), max_size=24))
def test_what_a_term_tells_apart_is_no_copy_and_stands_on_the_side_of_its_twins(
    drawn: list[tuple[str | None, str]],
) -> None:
    """Against plain Python, by all pairs."""
    rows = [document(f"d{at}", text, term=term, source_line=at) for at, (term, text) in enumerate(drawn)]
    [shard] = make_shards(rows)
    corpus = make_corpus(
        duplicate_columns=("term", "text"), heldout_share=0.5, rules=ALL_RULES_OFF, prompt=WITHOUT_TERM
    )
    judged = judged_shards(corpus, [shard]).of_shard[shard.key]
    sides = {
        row["document_id"]: row["split"] for row in clean_shard(corpus, shard.raw, {}, judged).documents.to_pylist()
    }

    sets = [reference_sequences(text, 3) for _, text in drawn]
    kept: list[int] = []
    for at in sorted(range(len(drawn)), key=lambda at: (-len(drawn[at][1]), at)):
        text, others = drawn[at][1], [other for other in kept if drawn[other][0] == drawn[at][0]]
        copy = any(drawn[other][1] == text or overlap(sets[at], sets[other]) >= 0.8 for other in others)
        kept += [at] if text.strip() and not copy else []
    assert sides.keys() == {f"d{at}" for at in kept}
    for one, other in combinations(kept, 2):
        if drawn[one][1] == drawn[other][1] or overlap(sets[one], sets[other]) >= 0.6:
            assert sides[f"d{one}"] == sides[f"d{other}"]
    for at in kept:
        alone = all(
            drawn[other][0] != drawn[at][0] and overlap(sets[at], sets[other]) < 0.6 for other in kept if other != at
        )
        if alone:
            assert sides[f"d{at}"] == split_of(*drawn[at], 0.5)


def test_one_answer_to_very_many_terms_is_one_group_and_is_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.prep.dedup._NUM_COMPARED_MAX", 3)
    shards = make_shards(
        [document(f"d{at}", ["yes", "不", "…"][at % 3], term=f"term {at}") for at in range(300)],
        [document(f"e{at}", ["Yes", "不", "…"][at % 3], term=f"another {at}") for at in range(300)],
    )
    corpus = make_corpus(num_shards=2, duplicate_columns=("term", "text"), rules=ALL_RULES_OFF, heldout_share=0.5)

    judged = judged_shards(corpus, shards)

    assert (judged.num_twins, judged.num_largest_twins) == (600, 200)
    clean = [clean_shard(corpus, one.raw, {}, judged.of_shard[one.key]).documents for one in shards]
    assert sum(table.num_rows for table in clean) == 600
    assert not find_leaks(corpus, clean).found
    alone = replace(corpus, twins_jaccard=None)
    assert judged_shards(alone, shards).num_twins == 0


def edited(draw: random.Random, text: str, num_words: int) -> str:
    parts = text.split()
    for at in draw.sample(range(len(parts)), num_words):
        parts[at] = f"other{draw.randrange(10**9)}"
    return " ".join(parts)


@pytest.mark.parametrize(("num_changed", "similarity", "num_shards"), [(1, 0.9, 2), (4, 0.67, 1)])
def test_no_held_out_document_has_its_twin_in_training(num_changed: int, similarity: float, num_shards: int) -> None:
    """A thousand twins with other terms: 190 of 210 held-out documents had their twin in training."""
    draw = random.Random(7)
    originals = sentences(seed=11, number=1_000, words=60)
    twins = [edited(draw, text, num_changed) for text in originals]
    pairs = [(document(f"a{at}", one), document(f"b{at}", twins[at])) for at, one in enumerate(originals)]
    first = reference_sequences(originals[0], 3), reference_sequences(twins[0], 3)
    assert overlap(*first) == pytest.approx(similarity, abs=0.06)
    halves = [[one for one, _ in pairs], [other for _, other in pairs]]
    shards = make_shards(*(halves if num_shards == 2 else [halves[0] + halves[1]]))
    corpus = make_corpus(num_shards=num_shards, heldout_share=0.1, near_duplicates=NearDuplicates(jaccard=1))

    judged = judged_shards(corpus, shards)
    clean = [clean_shard(corpus, one.raw, {}, judged.of_shard[one.key]).documents for one in shards]

    assert sum(table.num_rows for table in clean) == 2_000
    leaks = find_leaks(corpus, clean)
    assert (leaks.num_twins, leaks.num_terms, leaks.num_texts) == (0, 0, 0)
    assert judged.num_largest_twins == 2
    sides = [side for table in clean for side in table.column("split").to_pylist()]
    assert 0.06 < sides.count("heldout") / len(sides) < 0.14
    # Without them, twins are split by their terms alone, and the check sees it.
    alone = make_corpus(
        num_shards=num_shards, heldout_share=0.1, near_duplicates=NearDuplicates(jaccard=1), twins_jaccard=None
    )
    apart = judged_shards(alone, shards)
    split = [clean_shard(alone, one.raw, {}, apart.of_shard[one.key]).documents for one in shards]
    assert find_leaks(corpus, split).num_twins > 100


def test_all_documents_of_a_term_go_along_with_its_twin() -> None:
    """One of its documents is like another term's; the others, in any shard, are like nothing."""
    [text, *others] = sentences(seed=3, number=9, words=40)
    heldout = next(term for term in map(str, range(999)) if split_of(term, "", 0.2) == "heldout")
    train = next(term for term in map(str, range(999)) if split_of(term, "", 0.2) == "train")
    draw = random.Random(1)
    shards = make_shards(
        [document("one", text, term=heldout), document("alone", others[0], term=f" {train}")],
        [document("twin", edited(draw, text, 3), term=train), document("also", others[1], term=heldout)],
        [document("third", others[2], term=train), document("else", others[3], term="of nobody")],
    )
    corpus = make_corpus(num_shards=3, heldout_share=0.2)
    judged = judged_shards(corpus, shards).of_shard

    clean = [clean_shard(corpus, one.raw, {}, judged[one.key]).documents.to_pylist() for one in shards]
    sides = {row["document_id"]: row["split"] for rows in clean for row in rows}
    assert len({sides[name] for name in ("one", "alone", "twin", "also", "third")}) == 1
    assert sides["else"] == split_of("of nobody", "", 0.2)


def test_the_least_of_linked_keys_decides_whatever_the_order_in_which_they_are_linked() -> None:
    documents = [(1, ("a", "")), (1, ("b", "")), (2, ("c", "")), (2, ("a", "")), (3, ("d", ""))]
    expected = None
    for seed in range(20):
        random.Random(seed).shuffle(documents)
        keys = MovedKeys(0.5)
        keys.add(documents)
        expected = expected or keys.moved()
        assert keys.moved() == expected
        assert keys.num_largest() == 4
    assert expected


def twelve_copies() -> list[CorpusShard]:
    texts = sentences(seed=5, number=12, words=30)
    return make_shards(
        [document(f"a{at}", text) for at, text in enumerate(texts)],
        [document(f"b{at}", text + " more") for at, text in enumerate(texts)],
    )


def test_an_added_shard_needs_its_own_signatures_alone(tmp_path: Path) -> None:
    shards = [*twelve_copies(), *make_shards([document("c0", "nothing like the others is in this shard")])]
    shards[2] = CorpusShard(key="shard-02", raw=shards[2].raw, labels={})
    corpus = many_runs(3)
    site = Site(tmp_path, many_runs(2), shards)
    site.sign("shard-00", "shard-01")
    site.corpus = corpus
    with pytest.raises(
        InvalidInput, match=r"document_signatures\[shard-02\] is not made yet. Materialize document_sig"
    ):
        site.duplicates()

    site.sign("shard-02")
    assert site.duplicates() == in_one_run(corpus, shards)
    assert [site.handoffs.versions("document_signatures", one.key) for one in shards] == [[1], [1], [1]]


def test_signatures_of_older_documents_or_of_another_corpus_file_are_refused(tmp_path: Path) -> None:
    corpus, shards = many_runs(2), twelve_copies()
    site = Site(tmp_path, corpus, shards)
    site.sign()
    site.corpus = many_runs(2, twins_jaccard=0.7)
    with pytest.raises(InvalidInput, match=r"document_signatures\[shard-00\] v1 was made by another corpus file"):
        site.duplicates()
    site.corpus = corpus
    site.raw["shard-01"] = site.seal("raw_documents", "shard-01", make_raw("another text"))
    with pytest.raises(
        InvalidInput, match=r"v1 was not made of the newest raw_documents\[shard-01\], v2: its rows are"
    ):
        site.duplicates()


def test_what_labels_decided_is_refused_once_others_count(tmp_path: Path) -> None:
    """The newest labels are the same: they may be of sources that count no more."""
    labels = Labels(file=LabelFile(path="labels.csv", source="people"), drop=("no",))
    judge = LabelJudge(question="{text}?", answers=("yes", "no"), engine="echo", model="judge")
    corpus = many_runs(1, labels=labels)
    site = Site(tmp_path, corpus, [CorpusShard(key="shard-00", raw=make_raw("a weir"), labels={"d1": "no"})])
    site.sign()
    assert site.duplicates() == {"d1": ("label_unwanted", None, None, None)}
    assert site.own_verdict("shard-00").num_rows == 1

    for others in (replace(labels, file=LabelFile(path="labels.csv", source="experts")), replace(labels, judge=judge)):
        site.corpus = replace(corpus, labels=others)
        for stage, work in (
            (r"duplicates\[all\]", lambda: site.own_verdict("shard-00")),
            (r"document_signatures\[shard-00\]", site.duplicates),
        ):
            with pytest.raises(InvalidInput, match=rf"^{stage} v1 was made by another corpus file than"):
                work()
    # Where no label drops anything, none decides.
    without = (replace(corpus, labels=given) for given in (None, replace(labels, drop=()), replace(others, drop=())))
    assert len({one.verdict_digest for one in without}) == 1


def test_buckets_older_than_their_signatures_are_compared_anew(tmp_path: Path) -> None:
    corpus, shards = many_runs(2), twelve_copies()
    site = Site(tmp_path, corpus, shards)
    site.sign()
    site.fill_buckets()
    site.shards = [shards[0], CorpusShard(key="shard-01", raw=make_raw("another text of some words"), labels={})]
    site.raw["shard-01"] = site.seal("raw_documents", "shard-01", site.shards[1].raw)
    site.sign("shard-01")

    assert site.duplicates() == in_one_run(corpus, site.shards) == {}


def test_buckets_of_another_number_or_of_a_shard_that_is_no_more_are_compared_anew(tmp_path: Path) -> None:
    """Of another number, a bucket holds other ranges of keys: copies in those that no bucket holds were not found."""
    texts = sentences(seed=5, number=12, words=30)
    shards = make_shards(*([document(f"{shard}{at}", text) for at, text in enumerate(texts)] for shard in "abc"))
    three, two = (many_runs(number, near_duplicates=None, twins_jaccard=None) for number in (3, 2))
    site = Site(tmp_path, three, shards)
    site.sign()
    site.fill_buckets()
    site.corpus = replace(three, dedup=replace(three.dedup, num_buckets=2))
    assert site.duplicates() == in_one_run(three, shards)

    site.corpus, site.shards = two, shards[:2]
    assert site.duplicates() == in_one_run(two, shards[:2])
    assert len(in_one_run(two, shards[:2])) == 12


def test_buckets_of_few_keys_are_empty_and_the_last_run_compares_these_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, shards = many_runs(2), twelve_copies()
    site = Site(tmp_path, corpus, shards)
    site.sign()
    monkeypatch.setattr(whole_corpus, "_BUCKET_ROWS_MIN", 1_000)
    site.fill_buckets()

    assert all(site.handoffs.open("duplicate_buckets", key).num_rows == 0 for key in corpus.dedup.bucket_keys)
    assert site.duplicates() == in_one_run(corpus, shards)


def test_verdicts_that_name_originals_in_documents_read_anew_or_in_a_shard_that_is_no_more_are_refused(
    tmp_path: Path,
) -> None:
    """Else documents were dropped as copies of some that no longer exist, and both were lost."""
    shards = twelve_copies()
    site = Site(tmp_path, many_runs(2), shards)
    site.sign()
    site.duplicates()
    assert site.own_verdict("shard-00").num_rows == 12

    site.raw["shard-01"] = site.seal("raw_documents", "shard-01", make_raw("another text of some words"))
    with pytest.raises(
        InvalidInput, match=r"duplicates\[all\] v1 was not made of the newest raw_documents\[shard-01\]"
    ):
        site.own_verdict("shard-00")
    site.corpus = many_runs(1)
    with pytest.raises(
        InvalidInput, match=r"as copies of some in shard-01, which glosses has no more. Materialize dup"
    ):
        site.own_verdict("shard-00")


def test_a_rule_whose_number_is_above_255_drops_what_it_finds_in_one_run_and_in_many(tmp_path: Path) -> None:
    rules = QualityRules(drop_matching={f"number_{number}": f"only {number}$" for number in range(300)})
    shards = make_shards([document("last", "it holds only 299"), document("none", "it holds nothing of it")])
    corpus = replace(many_runs(1), rules=rules)
    expected = {"last": ("matches_number_299", None, None, None)}
    assert in_one_run(corpus, shards) == expected
    site = Site(tmp_path, corpus, shards)
    site.sign()
    assert site.duplicates() == expected


def test_conversations_that_begin_with_one_question_go_along_with_its_twin_where_no_term_is_mapped() -> None:
    """The first question is their term then: those that are alike to nothing stayed on the other side."""
    [text, *others] = sentences(seed=3, number=9, words=40)
    heldout = next(term for term in map(str, range(999)) if split_of(term, "", 0.2) == "heldout")
    train = next(term for term in map(str, range(999)) if split_of(term, "", 0.2) == "train")
    shards = make_shards(
        [
            document("one", text, term=heldout),
            document("twin", edited(random.Random(1), text, 3), term=train),
            document("of train", others[0], term=train),
            document("of heldout", others[1], term=heldout),
        ]
    )
    form = ExampleForm(kind="conversation")
    corpus = make_corpus(heldout_share=0.2, example=form, prompt=None, columns={"messages": "messages"})
    sides = {name: split for name, (_, _, _, split) in in_one_run(corpus, shards).items()}
    moved = {"heldout": ["of train", "twin"], "train": ["of heldout", "one"]}
    [side] = set(sides.values())
    assert sorted(sides) == moved[side]


def test_a_process_that_is_killed_leaves_nothing_of_the_texts_in_the_temporary_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file has a name while it is written."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spilled = SpilledTable(pa.schema({"text": pa.string()}))
    spilled.add(("a private text",))
    with KeyFiles() as files:
        files.add(np.zeros(3, KEY_ROWS))
        assert list(tmp_path.iterdir()) == []
    assert spilled.table().to_pylist() == [{"text": "a private text"}]
    assert list(tmp_path.iterdir()) == []


def test_nothing_compared_is_held_longer_than_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in batches of a few rows and bytes."""
    corpus, shards = make_corpus(num_shards=2), twelve_copies()
    expected = in_one_run(corpus, shards)
    assert len(expected) >= 12
    monkeypatch.setattr("headrace.prep.verdicts._BATCH_ROWS", 5)
    monkeypatch.setattr("headrace.prep.verdicts._BATCH_BYTES", 300)
    monkeypatch.setattr("headrace.prep.dedup._BATCH_ROWS", 3)
    assert in_one_run(corpus, shards) == expected
