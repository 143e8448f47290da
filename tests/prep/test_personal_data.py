import json
import random
import tracemalloc
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidInput, QuarantineExceeded
from headrace.handoff.schemas import MESSAGES
from headrace.handoff.versions import HandoffStore
from headrace.prep.clean_shards import clean_shard
from headrace.prep.cleaning import prepared
from headrace.prep.corpus import load_corpus
from headrace.prep.dropped_documents import dropped_of_shard
from headrace.prep.example_forms import ExampleForm
from headrace.prep.personal_patterns import finder
from headrace.prep.personal_reading import read
from headrace.prep.personal_settings import KINDS, Kind, PersonalData
from headrace.prep.rule_sets import QualityRules
from headrace.prep.sources import read_shard
from headrace.store.local import LocalStore
from tests.prep.builders import make_corpus, make_raw, write_jsonl
from tests.prep.personal_values import BESIDE, MAKERS, NATIONAL_PHONES, PHONES, SENTENCES, TRAPS

ALL = PersonalData()
DROPPED: dict[str, Any] = dict.fromkeys(KINDS, "drop")
COUNTRIES = tuple(NATIONAL_PHONES)
ASKED, ANSWERED = {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I."}


def masked(*documents: dict[str, Any] | str, **settings: Any) -> list[str]:
    corpus = make_corpus(rules=QualityRules.of("none"), personal_data=PersonalData(**settings))
    return prepared(pl.DataFrame(make_raw(*documents)), corpus).get_column("text").to_list()


def found(kind: Kind, text: str, *regions: str) -> list[str]:
    return [text[start:end] for start, end in finder(kind, regions).spans(text)]


@pytest.mark.parametrize("kind", MAKERS)
def test_what_was_put_into_sentences_of_several_scripts_is_found_exactly(kind: Kind) -> None:
    draw = random.Random(kind)
    values = list(islice(MAKERS[kind](draw), 200))
    texts = [draw.choice(SENTENCES).format(value) for value in values]
    may_hold = read(pl.Series(texts)).str.contains(finder(kind).may_hold)

    missed = [text for text, value in zip(texts, values, strict=True) if found(kind, text) != [value]]

    assert missed == []
    assert may_hold.all()


@pytest.mark.parametrize("form", PHONES)
def test_a_number_with_its_countrys_code_is_found_in_every_form_and_script(form: str) -> None:
    texts = [sentence.format(value) for value in PHONES[form] for sentence in SENTENCES]
    values = [value for value in PHONES[form] for _ in SENTENCES]

    assert [text for text, value in zip(texts, values, strict=True) if found("phone", text) != [value]] == []
    assert read(pl.Series(texts)).str.contains(finder("phone").may_hold).all()


@pytest.mark.parametrize("country", NATIONAL_PHONES)
def test_a_number_without_it_is_found_if_the_corpus_names_the_country(country: str) -> None:
    for value in NATIONAL_PHONES[country]:
        assert (value, found("phone", f"Call {value} today.", country)) == (value, [value])
        assert found("phone", f"Call {value} today.") == []


@pytest.mark.parametrize(("kind", "text", "values"), BESIDE)
def test_a_value_is_found_whatever_is_written_beside_it(kind: Kind, text: str, values: list[str]) -> None:
    assert found(kind, text) == values
    assert read(pl.Series([text])).str.contains(finder(kind).may_hold).item()


def test_a_number_without_its_countrys_code_is_found_in_lines_cells_and_emphasis() -> None:
    assert found("phone", "Call\n030 901820\n030 901821, **030 901822**", "DE") == [
        *("030 901820", "030 901821", "030 901822")
    ]
    assert found("phone", "Bob,030 901820,Berlin", "DE") == ["030 901820"]


def test_of_many_numbers_in_a_row_each_is_found_whole() -> None:
    row = [f"030901{number}" for number in range(820, 860)]

    assert found("phone", " ".join(row), "DE") == row
    assert found("phone", "\n".join(row), "DE") == row


TOKEN = "glpat-aB3dE5gH7jK9mN1pQ3rS"


@pytest.mark.parametrize("password", [TOKEN, f"aa!{TOKEN}", f"aa!{TOKEN}!SECRETTAIL99", "ghp_" + "a1B2" * 9])
def test_a_password_that_holds_a_token_is_one_secret_and_none_of_it_stays(password: str) -> None:
    document = f"clone https://user:{password}@example.com/x.git now"
    corpus = make_corpus(rules=QualityRules.of("none"), personal_data=ALL)
    [row] = prepared(pl.DataFrame(make_raw(document)), corpus).to_dicts()

    assert row["text"] == "clone https://user:<SECRET>@example.com/x.git now"
    assert row["personal_data_secret"] == 1


def test_a_private_key_without_its_end_takes_no_memory_for_each_character_and_one_with_it_is_found() -> None:
    begin, body, end = "-----BEGIN PRIVATE KEY-----", "\nab-cd\n" * 40_000, "-----END PRIVATE KEY-----"
    secrets = finder("secret")
    tracemalloc.start()
    try:
        assert [*secrets.spans(begin + body)] == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 2 * len(body)
    assert found("secret", f"a {begin}{body}{end} b") == [begin + body + end]
    assert found("secret", f"{begin}{body}-----END RSA PRIVATE KEY----- b") != []


@pytest.mark.parametrize("trap", TRAPS)
def test_dates_versions_books_hashes_orders_and_code_are_nobodys(trap: str) -> None:
    text = f"It says {trap} there." if "Scope" not in trap else trap

    assert masked(text) == [text]
    assert found("phone", text, *COUNTRIES) == []


def test_numbers_drawn_at_random_pass_as_cards_and_accounts_by_chance_alone() -> None:
    draw = random.Random(7)
    texts = [
        f"no. {draw.choice('3456')}{draw.randrange(10**15):015d} and DE{draw.randrange(10**20):020d}"
        for _ in range(400)
    ]

    assert sum(bool(found("card", text)) for text in texts) <= 40
    assert sum(bool(found("iban", text)) for text in texts) <= 12


@given(st.text(alphabet="ab@.+0123456789 -:/ABEDK＠８\n(\\u\u200b。３%=s)[]#", max_size=80))
def test_the_cheap_pattern_misses_nothing_and_what_is_found_is_apart(text: str) -> None:
    for kind in KINDS:
        one = finder(kind, COUNTRIES)
        spans = sorted(one.spans(text))

        assert all(0 <= start < end <= len(text) for start, end in spans)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
        assert not spans or read(pl.Series([text])).str.contains(one.may_hold).item()


@given(st.lists(st.sampled_from(["a@b.io", "+1 415-555-2671", "8.8.8.8", "x", "\n", "4111111111111111"]), max_size=8))
def test_what_is_masked_stays_as_it_is_when_it_is_masked_again(pieces: list[str]) -> None:
    once = masked(" ".join(pieces))

    assert masked(*once) == once


def test_each_kind_has_its_placeholder_and_the_rest_of_the_text_is_untouched() -> None:
    text = "\tJane <jane@example.com>, +1 415-555-2671;\n\tpays 4111 1111 1111 1111 from 8.8.8.8\n"

    assert masked(text) == ["\tJane <<EMAIL>>, <PHONE>;\n\tpays <CARD> from <IP_ADDRESS>"]
    assert masked(text, phone="keep", card="keep", ip="keep") == [text.replace("jane@example.com", "<EMAIL>").rstrip()]


def test_numbered_placeholders_tell_values_apart_however_they_are_grouped() -> None:
    text = "a@b.io wrote c@d.io; A@B.IO called +1 415-555-2671 or +14155552671."

    assert masked(text, number_placeholders=True) == [
        "<EMAIL_1> wrote <EMAIL_2>; <EMAIL_1> called <PHONE_1> or <PHONE_1>."
    ]


def test_numbered_placeholders_are_one_for_a_value_in_full_width_or_with_invisible_characters() -> None:
    text = "4111111111111111, ４１１１ １１１１ １１１１ １１１１, 41111111\u200b11111111; a@b.io, ａ＠ｂ．ｉｏ"

    assert masked(text, number_placeholders=True) == ["<CARD_1>, <CARD_1>, <CARD_1>; <EMAIL_1>, <EMAIL_1>"]


def test_numbered_placeholders_keep_apart_what_differs_in_a_dot_or_a_hyphen() -> None:
    text = "8.8.4.41 and 8.8.44.1; ab@x.com, a.b@x.com, a-b@x.com"

    assert masked(text, number_placeholders=True) == [
        "<IP_ADDRESS_1> and <IP_ADDRESS_2>; <EMAIL_1>, <EMAIL_2>, <EMAIL_3>"
    ]


@pytest.mark.parametrize(
    "messages",
    [
        {"messages": [{"role": "system", "content": "You are a@b.io."}, ASKED, ANSWERED]},
        {"messages": [ASKED, ANSWERED | {"reasoning_content": "Is it\na@b.io?"}]},
        {"messages": [ASKED | {"name": "a@b.io"}, ANSWERED]},
        {"messages": [ASKED, ANSWERED], "tools": [{"function": {"parameters": {"a@b.io": {"enum": [None, 1]}}}}]},
    ],
)
def test_a_conversation_with_an_address_that_its_text_leaves_out_is_dropped(messages: dict[str, Any]) -> None:
    treatments: dict[str, Any] = dict.fromkeys(KINDS, "keep") | {"email": "drop"}
    corpus = make_corpus(
        example=ExampleForm(kind="conversation"),
        prompt=None,
        columns={name: name for name in messages},
        rules=QualityRules.of("none"),
        personal_data=PersonalData(**treatments),
    )
    raw = make_raw("Who?\n\nI.", "Who else?\n\nYou.")
    said = [json.dumps(messages, ensure_ascii=False), json.dumps({"messages": [ASKED, ANSWERED]})]
    cleaned = clean_shard(corpus, raw.append_column(MESSAGES, pa.array(said)), {})

    assert cleaned.drops["personal_data_email"] == 1
    assert cleaned.documents.column("messages").to_pylist() == said[1:]


def test_terms_categories_and_examples_are_masked_with_the_texts_numbers() -> None:
    document = {"term": "c@d.io", "category": None, "text": "from a@b.io", "examples": ["to c@d.io", "none"]}
    corpus = make_corpus(personal_data=PersonalData(number_placeholders=True))
    [row] = prepared(pl.DataFrame(make_raw("nothing", document)), corpus)[1:].to_dicts()

    assert row["text"] == "from <EMAIL_1>"
    assert (row["term"], row["category"], row["examples"]) == ("<EMAIL_2>", None, ["to <EMAIL_2>", "none"])
    assert row["personal_data_email"] == 3


def test_documents_are_dropped_by_kind_and_placeholders_are_counted_in_those_that_stay() -> None:
    settings = PersonalData(email="mask", card="drop")
    corpus = make_corpus(rules=QualityRules.of("none"), personal_data=settings)
    cleaned = clean_shard(corpus, make_raw("a@b.io or c@d.io", "4111 1111 1111 1111 of e@f.io", "none"), {})

    assert {rule: count for rule, count in cleaned.drops.items() if count} == {"personal_data_card": 1}
    assert cleaned.masked == {"secret": 0, "email": 2, "iban": 0, "card": 0, "ip": 0, "phone": 0}
    assert cleaned.documents.column("text").to_pylist() == ["<EMAIL> or <EMAIL>", "none"]


def test_copies_that_differ_in_an_address_alone_are_duplicates() -> None:
    corpus = make_corpus(rules=QualityRules.of("none"), personal_data=ALL)

    assert clean_shard(corpus, make_raw("Ask a@b.io for it.", "Ask c@d.io for it."), {}).drops["exact_duplicate"] == 1


def test_what_is_shown_of_a_dropped_document_has_placeholders(tmp_path: Path) -> None:
    handoffs = HandoffStore(LocalStore(tmp_path))
    corpus = make_corpus(rules=QualityRules.of("none"), personal_data=PersonalData(secret="drop"))
    key = "ghp_" + "a1B2" * 9
    handoffs.publish("raw_documents", "shard-00", make_raw(f"token {key} of a@b.io"), code_version="1", run_id="r")

    [shown] = dropped_of_shard(corpus, handoffs, "shard-00", tokenizer=None).documents

    assert (shown.rule, shown.measured, shown.excerpt) == ("personal_data_secret", 1, "token <SECRET> of <EMAIL>")
    assert key not in repr(shown)


def test_a_refusal_for_what_cannot_be_read_has_placeholders(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "files/a.jsonl", [{"messages": [{"role": "jane@example.com", "content": "I."}]}])
    corpus = make_corpus(
        example=ExampleForm(kind="conversation"),
        prompt=None,
        columns={"messages": "messages"},
        quarantine_share_max=0.0,
        personal_data=PersonalData(**DROPPED),
    )
    read = read_shard(corpus, "shard-00", tmp_path)

    with pytest.raises(QuarantineExceeded, match="has the role '<EMAIL>'"):
        read.refuse_if_exceeded()
    assert "jane@example.com" in read.quarantine.column("reason").to_pylist()[0]


def test_a_corpus_file_names_kinds_and_refuses_what_cannot_be_meant(tmp_path: Path) -> None:
    def load(**settings: Any) -> PersonalData | None:
        path = tmp_path / "corpus.yaml"
        body = {"name": "notes", "files": ["a.txt"], "prompt": {"user": "Write."}, "personal_data": settings}
        path.write_text(yaml.safe_dump(body))
        return load_corpus(path).personal_data

    assert load(card="drop", phone_regions=["US"]) == PersonalData(card="drop", phone_regions=("US",))
    with pytest.raises(
        InvalidInput, match=r"phone_regions must name countries by codes such as US, DE, CN, got 'usa'\."
    ):
        load(phone_regions=["usa"])
    with pytest.raises(InvalidInput, match="personal_data keeps every kind; remove the key to look for none"):
        load(**dict.fromkeys(KINDS, "keep"))
