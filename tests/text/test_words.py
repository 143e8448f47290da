import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.text.words import Running, Term, encodable, graphemes, has_no_blanks, segments, tokens, words

WORDS: dict[str, list[str]] = {
    "Don't stop: 3.14 > π, said Zoë!": ["Don't", "stop", "3.14", "π", "said", "Zoë"],
    "मैं हिन्दी में किताब पढ़ता हूँ।": ["मैं", "हिन्दी", "में", "किताब", "पढ़ता", "हूँ"],
    "我们在北京。": ["我们", "在", "北京"],
    "私は東京で本を読む": ["私", "は", "東京", "で", "本", "を", "読む"],
    "ผมรักเมืองไทย": ["ผม", "รัก", "เมือง", "ไทย"],
    "ខ្ញុំស្រឡាញ់ប្រទេសកម្ពុជា": ["ខ្ញុំ", "ស្រឡាញ់", "ប្រទេស", "កម្ពុជា"],
    "나는 한국어를": ["나는", "한국어를"],
    "السَّلَامُ عَلَيْكُمْ": ["السَّلَامُ", "عَلَيْكُمْ"],
    "iPhone手机 C++": ["iPhone", "手机", "C"],
    "👩‍👩‍👧 🇩🇪 $$$ …": [],
    "half \ud83d here": ["half", "here"],
}


@pytest.mark.parametrize("text", WORDS)
def test_words_are_what_readers_of_the_script_take_for_words(text: str):
    assert words(text) == WORDS[text]


def test_characters_are_whole():
    text = ["हि", "न्दी", " ", "e\u0301", " ", "👩‍👩‍👧", "🇩🇪", "🇫🇷", "👍🏽"]
    assert graphemes("".join(text)) == text


FOUND = [
    ("C++", "I write C++, mostly."),
    ("c++", "C++"),
    ("C", "the letter C."),
    ("$$$", "get $$$ fast"),
    ("$$$", "cash$$$now"),
    ("as an AI", "As an\nAI, I"),
    ("bad", "“BAD”"),
    ("bad", "ＢＡＤ"),
    ("bad", "so b\u00ada\u200bd"),
    ("don't", "I don’t"),
    ("法轮", "关于法轮功的书"),
    ("死", "他死了"),
    ("バカ", "おまえバカだ"),
    ("ไทย", "ผมรักเมืองไทยมาก"),
    ("កម្ពុជា", "ប្រទេសកម្ពុជា"),
    ("हिन्दी", "मैं हिन्दी पढ़ता हूँ"),
    ("手机", "iPhone手机"),
    ("iphone", "iPhone手机"),
    ("👍", "ok 👍👍"),
    ("❤", "I ❤\ufe0f it"),
    ("Zoe\u0308", "zoë"),
    ("straße", "STRASSE 5"),
    ("18", "at 18."),
    (".NET", "in .NET and"),
    ("@all", "hey @all!"),
]
NOT_FOUND = [
    ("C++", "the letter C and vitamin C"),
    ("C", "cat"),
    ("cat", "concatenate"),
    ("18", "in 2018"),
    ("$$$", "$$ and $"),
    ("हिन्द", "हिन्दी"),
    ("न", "हिन्दी"),
    ("के", "केला"),
    ("👍", "👍🏽"),
    ("👩", "👩‍👩‍👧"),
    ("🇩🇪", "🇪🇩🇪🇸"),
    ("e", "é e\u0301"),
    ("法轮", "法 轮"),
    ("don", "I don't"),
    ("as an AI", "it has an aim"),
    ("bad phrase", "bad, phrase"),
    ("\u200b", "anything"),
]


@pytest.mark.parametrize(("term", "text"), FOUND)
def test_a_term_is_found(term: str, text: str):
    assert Term(term).stands_in(Running(text))


@pytest.mark.parametrize(("term", "text"), NOT_FOUND)
def test_a_term_is_not_found(term: str, text: str):
    assert not Term(term).stands_in(Running(text))


@given(st.text(st.characters()))
def test_nothing_is_lost_or_added_where_a_text_is_cut(text: str):
    assert "".join(segments(text)) == "".join(graphemes(text)) == encodable(text)


@given(st.sampled_from([term for term, _ in FOUND]), st.text(), st.text())
def test_a_term_on_a_line_of_its_own_is_found_whatever_stands_around_it(term: str, before: str, after: str):
    assert Term(term).stands_in(Running(f"{before}\n{term}\n{after}"))


def test_tokens_of_a_part_are_part_of_the_tokens_of_the_whole():
    whole, part = tokens("我们在北京的大学里 Study now"), tokens("北京的大")
    assert "\0".join(part) in "\0".join(whole)
    assert tokens("It's “NOW”") == ["it's", "now"]


def test_scripts_without_blanks_are_known_by_their_letters():
    assert [has_no_blanks(letter) for letter in "中あアไລကខབaéдا한हא"] == [True] * 8 + [False] * 7
    assert sum(has_no_blanks(chr(code)) for code in range(sys.maxunicode + 1)) > 90_000
