import random
from itertools import combinations, product
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace.prep import kernels, pair_kernels
from headrace.prep.dedup_settings import NearDuplicates
from headrace.prep.example_forms import ExamplePrompt
from headrace.prep.rule_sets import QualityRules
from headrace.prep.signatures import COPY_RECALL_MIN, bands
from headrace.prep.text_keys import text_keys_of
from headrace.prep.token_rule import folded, kinds
from headrace.prep.verdicts import CorpusShard, judged_shards
from simulation.plain_tokens import reference_sequences, reference_tokens
from tests.prep.builders import make_corpus, make_raw

WORDS = ["river", "wheel", "stone", "grain", "mill", "weir", "gate", "boat", "rope", "bank", "lock", "race"]
CHINESE = (
    "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成"
    "会可主发年动同工也能下过子说产种面而方后多定行学法所民得经"
)
THAI = "กขคงจฉชซญฎฏฐณดตถทธนบปผฝพฟภมยรลวศษสหฬอฮ"


def copies(texts: list[str], settings: NearDuplicates | None, **others: list[str]) -> pl.DataFrame:
    """For each text, the place of its original as `copy_of`, and `similarity`."""
    corpus = make_corpus(
        columns={name: name for name in ("text", *others)},
        prompt=ExamplePrompt(user="Write."),
        rules=QualityRules.of("none"),
        duplicate_columns=("text", *others),
        near_duplicates=settings,
        twins_jaccard=None,
    )
    rows = [dict(zip(("text", *others), row, strict=True)) for row in zip(texts, *others.values(), strict=True)]
    shard = CorpusShard(key="", raw=make_raw(*rows), labels={})
    found = pl.DataFrame(judged_shards(corpus, [shard]).of_shard[""])
    # Lines count from 1 on.
    found = found.select("place", "similarity", (pl.col("copy_of_source_line") - 1).alias("copy_of"))
    return pl.DataFrame({"place": range(len(texts))}, {"place": pl.Int64}).join(
        found, on="place", how="left", maintain_order="left"
    )


def near_copies(texts: list[str], settings: NearDuplicates | None = None, **others: list[str]) -> pl.DataFrame:
    return copies(texts, settings or NearDuplicates(), **others)


def near(texts: list[str], settings: NearDuplicates | None = None, **others: list[str]) -> list[int | None]:
    """The place of each text's original."""
    return near_copies(texts, settings, **others).get_column("copy_of").to_list()


def exact(texts: list[str], **others: list[str]) -> list[int | None]:
    return copies(texts, None, **others).get_column("copy_of").to_list()


def sentences(seed: int, number: int, words: int = 14) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choice(WORDS) + str(draw.randrange(50)) for _ in range(words)) for _ in range(number)]


def with_one_word_changed(text: str) -> str:
    """At the end, where it changes one three-word sequence alone."""
    return " ".join([*text.split()[:-1], "otherwise"])


def overlap(left: set[Any], right: set[Any]) -> float:
    return len(left & right) / len(left | right)


def compiled_sequences(texts: list[str], num_tokens: int) -> list[list[int]]:
    encoded = [text.encode() for text in texts]
    data = np.frombuffer(b"".join(encoded), np.uint8)
    offsets = np.cumsum([0, *map(len, encoded)])
    found = np.empty(len(data), np.uint32)
    bounds = kernels.sequences(data, offsets, kinds(), folded(), num_tokens, found)
    return [found[bounds[at] : bounds[at + 1]].tolist() for at in range(len(texts))]


def test_of_exact_copies_the_longest_is_kept_and_of_equally_long_ones_the_first() -> None:
    assert exact(["a mill", "A  MILL ", "a wheel", "a mill"]) == [1, None, None, 1]
    assert exact(["a mill", "a wheel", "A MILL", "a mill"]) == [None, None, 0, 0]


def test_each_exact_copy_has_the_place_of_the_first_of_its_text() -> None:
    texts = random.Random(9).choices(sentences(seed=9, number=300), k=1_000)

    originals = [texts.index(text) for text in texts]
    assert exact(texts) == [None if at == original else original for at, original in enumerate(originals)]
    assert exact([]) == []


def test_columns_are_compared_as_columns() -> None:
    assert exact(["10 apples", "apples", "apples"], term=["2", "2 10", "2 10"]) == [None, None, 1]


def test_one_long_answer_to_two_terms_is_two_documents() -> None:
    [answer] = sentences(seed=6, number=1, words=60)

    assert near([answer, answer, with_one_word_changed(answer)], term=["weir", "race", "weir"]) == [2, None, None]


def test_of_near_copies_the_longest_is_kept_wherever_they_stand() -> None:
    originals = sentences(seed=1, number=200)
    texts = [*originals, *map(with_one_word_changed, originals)]

    found = near_copies(texts)

    assert found.get_column("copy_of").to_list() == [*range(200, 400), *[None] * 200]
    # Of 12 sequences each, 11 are shared.
    assert found.get_column("similarity").to_list() == [*[11 / 13] * 200, *[None] * 200]


def edited(draw: random.Random, text: str, alphabet: str, share: float) -> str:
    return "".join(draw.choice(alphabet) if draw.random() < share else character for character in text)


@pytest.mark.parametrize("alphabet", [CHINESE, THAI], ids=["Chinese", "Thai"])
def test_planted_copies_are_found_in_scripts_without_blanks(alphabet: str) -> None:
    """Against brute force over sequences of three characters."""
    draw = random.Random(8)
    originals = ["".join(draw.choices(alphabet, k=80)) for _ in range(120)]
    copies = [edited(draw, text, alphabet, 0.03) for text in originals]

    found = near([*originals, *copies])

    true = [
        overlap(reference_sequences(one, 3), reference_sequences(copy, 3)) >= 0.8
        for one, copy in zip(originals, copies, strict=True)
    ]
    assert 60 < sum(true) < 120
    assert found == [None] * 120 + [at if is_copy else None for at, is_copy in enumerate(true)]


DIFFERENT = {
    "an operation": ("7 + 5", "7 * 5"),
    "a sign": ("-5 degrees", "5 degrees"),
    "a comparison": ("a == b", "a != b"),
    "a language": ("C++", "C#"),
    "a decimal point": ("1.5", "15"),
    "vowel signs of Hindi": ("कि", "की"),
    "an accent": ("resume", "résumé"),
    "indentation of a program": ("if a:\n    b()\n    c()", "if a:\n    b()\nc()"),
    "a flag": ("\U0001f1e9\U0001f1ea", "\U0001f1eb\U0001f1f7"),
}


@pytest.mark.parametrize("phrase", DIFFERENT)
def test_what_changes_a_meaning_makes_two_documents(phrase: str) -> None:
    texts = list(DIFFERENT[phrase])

    assert near(texts) == exact(texts) == [None, None]


ALIKE = {
    "a sentence's punctuation": ("a mill!", 'A mill. "'),
    "quotes": ("the ‘mill’", '"the mill"'),
    "full width": ("ＡＢＣ\uff11", "abc1"),
    "line breaks": ("one\ntwo three", "one two\n\nthree"),
    "invisible characters": ("mill\u00adwheel\u200d", "millwheel"),
    "signs of sentences in Chinese": ("水车。转", "水车转"),
}


@pytest.mark.parametrize("phrase", ALIKE)
def test_what_readers_do_not_hear_is_not_compared(phrase: str) -> None:
    one, other = near(list(ALIKE[phrase]))
    assert {one, other} in ({None, 0}, {None, 1})


def test_nothing_is_dropped_on_an_estimate() -> None:
    """Against brute force: each dropped text has a kept one of at least the threshold's exact similarity."""
    draw = random.Random(3)
    base = sentences(seed=2, number=60)
    texts = [" ".join(word for word in draw.choice(base).split() if draw.random() > 0.06) for _ in range(400)]

    found = near_copies(texts, NearDuplicates(jaccard=0.7))

    sets = [reference_sequences(text, 3) for text in texts]
    originals = found.get_column("copy_of").to_list()
    copies = [(at, original) for at, original in enumerate(originals) if original is not None]
    kept = [one for one, original in zip(sets, originals, strict=True) if original is None]
    assert copies
    order = {at: place for place, at in enumerate(sorted(range(400), key=lambda at: (-len(texts[at]), at)))}
    assert all(order[original] < order[at] and originals[original] is None for at, original in copies)
    similarities = [overlap(sets[at], sets[original]) for at, original in copies]
    stated = found.drop_nulls("copy_of").get_column("similarity")
    assert all(one in (None, similarity) for one, similarity in zip(stated, similarities, strict=True))
    assert stated.count() > 40
    assert min(similarities) >= 0.7
    assert not any(overlap(one, other) >= 0.7 for index, one in enumerate(kept) for other in kept[:index])


def test_of_texts_of_one_template_every_copy_and_twin_is_found_whatever_their_sizes() -> None:
    """Against brute force over sets of up to 2,500 numbers, of which most are far apart and some just at the limit."""
    draw = random.Random(12)
    sets: list[set[int]] = []
    for size in [5, 30, 34, 60, 130, 260, 1_000, 2_500]:
        frame = draw.sample(range(2**32), size)
        for share in (0.02, 0.05, 0.1, 0.12, 0.2, 0.25, 0.3, 0.5):
            kept = draw.sample(frame, size - round(size * share))
            sets.append({*kept, *draw.sample(range(2**32), draw.choice([0, 1, size - len(kept)]))})
    draw.shuffle(sets)
    numbers = [np.sort(np.array([*one], np.uint32)) for one in sets]
    bounds = np.cumsum([0, *map(len, sets)])
    everyone = np.arange(len(sets) + 1)

    originals, similarities, parents = pair_kernels.copies_and_twins(
        everyone[:-1],
        everyone,
        np.zeros(len(sets), np.int32),
        1,
        np.concatenate(numbers),
        bounds,
        0.8,
        0.6,
        1_000,
        everyone[:-1].copy(),
    )

    similarity = {(one, other): overlap(sets[one], sets[other]) for other in range(len(sets)) for one in range(other)}
    kept: list[int] = []
    for at in range(len(sets)):
        copy_of = {one: similarity[one, at] for one in kept if similarity[one, at] >= 0.8}
        assert (originals[at] in copy_of) if copy_of else (originals[at] == -1)
        assert similarities[at] == pytest.approx(copy_of.get(originals[at], 0))
        kept += [] if copy_of else [at]
    linked = {at: {at} for at in kept}
    for one, other in combinations(kept, 2):
        if similarity[one, other] >= 0.6 and linked[one] is not linked[other]:
            linked[one] |= linked[other]
            linked |= dict.fromkeys(linked[other], linked[one])
    assert 10 < len(kept) < len(sets)
    assert len(set(map(id, linked.values()))) < len(kept)
    for one, other in combinations(kept, 2):
        assert (parents[one] == parents[other]) == (other in linked[one])


def test_texts_without_tokens_are_no_near_duplicates() -> None:
    assert near(["?", "?", "…", "!"]) == [None, 0, None, None]


def test_the_same_texts_give_the_same_originals_in_any_batching(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = sentences(seed=4, number=300) * 2
    assert near(texts) == [*[None] * 300, *range(300)]

    monkeypatch.setattr("headrace.prep.utf8.BATCH_ROWS", 7)
    assert near(texts) == [*[None] * 300, *range(300)]


def test_no_texts_have_no_copies() -> None:
    assert near([]) == []


@pytest.mark.parametrize(("threshold", "permutations"), [(0.5, 64), (0.7, 128), (0.8, 128), (0.95, 256), (1.0, 64)])
def test_pairs_at_the_threshold_are_proposed_nearly_always(threshold: float, permutations: int) -> None:
    num_bands, num_rows = bands([(threshold, COPY_RECALL_MIN)], permutations)

    assert num_bands * num_rows <= permutations
    assert 1 - (1 - threshold**num_rows) ** num_bands >= 0.999


ASCII = "".join(map(chr, range(128)))
CHARACTERS = 'aB1 \t\n.,!+_-é̂कि水。ไทยＡ\u00ad\u200d’"\U0001f469\U00020000'
running = st.text(st.sampled_from(CHARACTERS), max_size=30)
# Long enough for blocks of ASCII, before, between and after other characters, at any place in a block.
in_blocks = st.lists(
    st.one_of(
        running, st.text(st.sampled_from(ASCII), max_size=99), st.sampled_from(["water wheel " * 9, "\n    if a:"])
    ),
    max_size=6,
).map("".join)


def has_the_sequences_of_the_rule(texts: list[str], num_tokens: int) -> bool:
    """Whether the reference's sequences have one hash each, all over, and come as often and in the same order."""
    names: dict[tuple[str, ...], int] = {}
    for text, found in zip(texts, compiled_sequences(texts, num_tokens), strict=True):
        tokens = reference_tokens(text)
        length = min(len(tokens), num_tokens)
        sequences = [tuple(tokens[at : at + length]) for at in range(len(tokens) - length + 1)] if tokens else []
        if [names.setdefault(sequence, one) for sequence, one in zip(sequences, found, strict=True)] != found:
            return False
        assert set(sequences) == reference_sequences(text, num_tokens)
    return len(set(names.values())) == len(names)


@given(st.lists(running, min_size=1, max_size=5), st.integers(1, 4))
@example(["a\n\t b", "a\n\n b", "\n", "1.\u00adb"], 1)
def test_the_compiled_tokens_are_those_of_the_rule(texts: list[str], num_tokens: int) -> None:
    assert has_the_sequences_of_the_rule(texts, num_tokens)


@given(st.lists(in_blocks, min_size=1, max_size=4), st.integers(1, 4))
@example(["water " * 5 + "\n    é" + "wheel " * 6, "water " * 5 + "\n    e" + "wheel " * 6], 2)
def test_runs_of_ascii_have_the_tokens_of_the_rule(texts: list[str], num_tokens: int) -> None:
    assert has_the_sequences_of_the_rule(texts, num_tokens)


def test_every_ascii_character_counts_the_same_among_others_and_alone() -> None:
    """A text of ASCII alone is classified by comparing, one with other characters by the rule's tables."""
    around = [
        f"{before}{one}{after}" for one in ASCII for before in ("", "a", "+", " ") for after in ("", "b", "-", " ")
    ]

    assert has_the_sequences_of_the_rule([*around, *(f"水{text}" for text in around)], 1)


def test_ascii_texts_with_one_exact_key_have_the_same_tokens() -> None:
    """Every text of up to five of these characters: so copies among them share bands, and need no exact key."""
    texts = ["".join(some) for length in range(6) for some in product("aA \n\t.-\r", repeat=length)]

    keys = pl.Series(texts).to_frame("text").select(text_keys_of(pl.col("text"))).to_series().to_list()
    tokens_of: dict[str, list[int]] = {}
    found = compiled_sequences(texts, 1)
    assert all(tokens_of.setdefault(key, tokens) == tokens for key, tokens in zip(keys, found, strict=True))
    assert len(tokens_of) < len(texts)


def test_a_character_of_any_length_begins_and_ends_a_token_at_any_place() -> None:
    words = ["x" * length + end for length in range(40) for end in ("", "y", "é", "水", "\U00020000")]

    assert has_the_sequences_of_the_rule([*words, *(f"{word} {word}  {word}" for word in words)], 1)


@given(st.lists(st.integers(0, 40)))
def test_keys_are_shared_if_they_are_there_twice(numbers: list[int]) -> None:
    # They begin with the same bits, and differ in few of the last.
    keys = [(7 << 60) + number * 16 for number in numbers]

    assert kernels.shared_keys(np.array(keys, np.uint64)).tolist() == [keys.count(key) > 1 for key in keys]
