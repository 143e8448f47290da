"""Texts in pieces become sentences."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.voice.sentences import Sentences


def cut(*pieces: str) -> list[str]:
    cutter = Sentences()
    return [sentence for piece in pieces for sentence in cutter.add(piece)] + cutter.end()


def test_a_sentence_is_there_as_soon_as_the_next_one_begins() -> None:
    cutter = Sentences()
    assert cutter.add("The mill turns.") == []
    assert cutter.add(" It") == ["The mill turns."]
    assert cutter.end() == ["It"]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("It costs 3.50 a day. Good!", ["It costs 3.50 a day.", "Good!"]),
        ("Dr. Webb met J. Mill there. Yes.", ["Dr. Webb met J. Mill there.", "Yes."]),
        ('"Stop!" he said. "Why?"', ['"Stop!"', "he said.", '"Why?"']),
        ("One line\n\nanother line", ["One line", "another line"]),
        ("磨坊在转。河水在流。", ["磨坊在转。", "河水在流。"]),
        ("... — !", []),
        ("", []),
    ],
)
def test_where_sentences_end(text: str, sentences: list[str]) -> None:
    assert cut(text) == sentences


def test_a_sentence_without_an_end_is_cut_between_words() -> None:
    text = "and so it went on, " * 40
    found = cut(text)
    assert max(map(len, found)) <= 240
    assert " ".join(found).split() == text.split()


@given(text=st.text("ab .!?\n", max_size=300), places=st.lists(st.integers(0, 300), max_size=6))
def test_no_word_is_lost_wherever_pieces_end(text: str, places: list[int]) -> None:
    ends = sorted({0, len(text), *(place for place in places if place < len(text))})
    pieces = [text[start:end] for start, end in pairwise(ends)]
    found = "".join("".join(cut(*pieces)).split())
    assert [sign for sign in found if sign.isalnum()] == [sign for sign in text if sign.isalnum()]
