"""Each kind of value, at every border that texts, tables, programs and logs put beside it."""

import random
from itertools import islice, pairwise

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.prep.personal_data import without_personal_data
from headrace.prep.personal_patterns import finder
from headrace.prep.personal_reading import read, readings
from headrace.prep.personal_settings import KINDS, Kind, PersonalData
from tests.prep.personal_values import COUNTRIES_IBANS, INNOCENT, MAKERS, NATIONAL_PHONES, PHONES

PLACEHOLDERS = {"ip": "<IP_ADDRESS>"} | {kind: f"<{kind.upper()}>" for kind in KINDS if kind != "ip"}
INVISIBLE = ("\u200b", "\u200c", "\ufeff", "\u2060", "\u00ad")
# What is written before and behind a value.
_ALIKE = (" ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\\n", "\\r\\n", "\\t", "\\\\n", '"', "'", "`", "**", "*", "|")
_ALIKE += (",", ";", "，", "；", "：", "。", '\\"', "_", "__")
BORDERS = [(border, border) for border in (*_ALIKE, *INVISIBLE)]
BORDERS += [("(", ")"), ("[", "]"), ("{", "}"), ("<", ">"), ("（", "）"), ("「", "」"), ("【", "】"), ("“", "”")]
BORDERS += [("", ""), ("=", "&"), (": ", ", "), (":", ""), ("=", ""), ("/", " ")]
BORDERS += [("\\u003d", "\\u0026"), ("\\ud83d\\ude00", "")]
BORDERS += [("%20", "%20"), ("%22", "%22"), ("q=%3A", "&"), ("=3D", "=\n"), ("=3D", " "), ("--", " --")]
ITEMS = ("1) ", "2) ", "10) ", "1. ", "2.\t", "(1) ", "(3) ", "[2] ", "[12] ", "#6 ", "1)  ", "(Büro 4) ", "１） ")
ITEMS += ("1)", "２）", "（1）", "(3)", "[2]")
AROUND = (("", ""), ("see ", " there"), ("中", "中"), ("क", "क"), ("ไทย", "ไทย"))
SEPARATORS = (" ", "\t", "\n", "\\n", ",", ", ", ";", "|", " | ", " / ", "/")
SEPARATORS += ("\u3000", "、", "\u200b", "', '", "\\t", "=")
VALUES: dict[Kind, list[str]] = {}
for kind in ("secret", "email", "iban", "card", "ip"):
    VALUES[kind] = [*islice(MAKERS[kind](random.Random(kind)), 14)]
VALUES["iban"] += COUNTRIES_IBANS
VALUES["phone"] = [number for form in ("international", "compact", "brackets") for number in PHONES[form]]


def full_width(value: str) -> str:
    return "".join(chr(ord(letter) + 0xFEE0) if "!" <= letter <= "~" else letter for letter in value)


def shown(text: str, *regions: str) -> str:
    return without_personal_data(text, PersonalData(phone_regions=regions))


def wrong(cases: list[tuple[str, str]], *regions: str) -> list[tuple[str, str]]:
    # Underscores of a text's emphasis may be a name's or key's own.
    return [
        (text, got)
        for text, wanted in cases
        if (got := shown(text, *regions)) != wanted and got.replace("_", "") != wanted.replace("_", "")
    ]


def put(values: list[str], placeholder: str) -> list[tuple[str, str]]:
    """Texts with a value between each two borders, and what is to be shown of them."""
    places = [(f"{left}{before}", f"{behind}{right}") for before, behind in BORDERS for left, right in AROUND]
    chosen = [values[(place + place // len(AROUND)) % len(values)] for place in range(len(places))]
    return [
        (f"{before}{value}{behind}", f"{before}{placeholder}{behind}")
        for (before, behind), value in zip(places, chosen, strict=True)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_is_found_between_all_borders(kind: Kind) -> None:
    cases = put(VALUES[kind], PLACEHOLDERS[kind])

    assert wrong(cases) == []
    assert read(pl.Series([text for text, _ in cases])).str.contains(finder(kind).may_hold).all()


def test_a_number_without_its_countrys_code_is_found_between_all_borders() -> None:
    for country, numbers in NATIONAL_PHONES.items():
        assert wrong(put(numbers, "<PHONE>"), country) == []


@pytest.mark.parametrize("country", NATIONAL_PHONES)
@pytest.mark.parametrize("line", ["\n", " ", ", "])
def test_numbers_of_lists_notes_and_desks_are_no_part_of_the_number_behind_them(country: str, line: str) -> None:
    numbers = NATIONAL_PHONES[country]
    cases = [(f"Call {item}{number}!", f"Call {item}<PHONE>!") for item in ITEMS for number in numbers]
    for mark in ("{}) ", "{}. ", "({}) ", "[{}] "):
        items = [(mark.format(at), numbers[at % len(numbers)]) for at in range(1, 10)]
        written, wanted = (
            line.join(item + value for item, value in of) for of in (items, [(i, "<PHONE>") for i, _ in items])
        )
        cases.append((written, wanted))

    assert wrong(cases, country) == []


def test_a_list_without_blanks_hides_no_number_and_an_argument_is_no_item() -> None:
    cases = [
        ("电话：（1）010-88887777（2）13812345678", "电话：（1）<PHONE>（2）<PHONE>"),
        ("手机(1)+86 138 1234 5678，(2)+8613912345678", "手机(1)<PHONE>，(2)<PHONE>"),
        ("1）０３－３４５６－７８９０\n2）03-3456-7891", "1）<PHONE>\n2）<PHONE>"),
        ('{"a": "1)13812345678\\n2)13912345678"}', '{"a": "1)<PHONE>\\n2)<PHONE>"}'),
    ]
    innocent = ["f(1)13812345678", "a[1]13812345678", "f(1)+4930901820", "g(x)(1)+4930901820", "2*(1)+4930901820"]
    assert wrong([*cases, *((text, text) for text in innocent)], "CN", "JP") == []


@pytest.mark.parametrize("number", ["(11) 2345-6789", "(11) 91234-5678", "+55 (11) 2345-6789"])
def test_a_code_in_brackets_is_the_numbers_own(number: str) -> None:
    assert shown(f"2) {number}, {number}", "BR") == "2) <PHONE>, <PHONE>"


@pytest.mark.parametrize("kind", KINDS)
def test_values_side_by_side_are_all_found(kind: Kind) -> None:
    values, one = VALUES[kind], PLACEHOLDERS[kind]
    cases = [
        (separator.join(values[(at + place) % len(values)] for at in (0, 3, 5)), separator.join([one] * 3))
        for place, separator in enumerate(SEPARATORS * 3)
        # Without it, the end of one address is the beginning of the next.
        if (kind, separator) != ("email", "\u200b")
    ]

    assert wrong(cases) == []


@pytest.mark.parametrize("kind", KINDS)
def test_full_width_and_invisible_characters_hide_no_value(kind: Kind) -> None:
    draw, values = random.Random(kind), VALUES[kind]
    written = [*map(full_width, values)]
    for value in values:
        at = draw.randrange(1, len(value))
        written.append(value[:at] + draw.choice(INVISIBLE) + value[at:])
        written.append(value[:at] + f"\\u{ord(draw.choice(INVISIBLE)):04x}" + value[at:])
    if kind in ("card", "phone", "ip"):
        written += [value.translate({ord("0") + at: chr(0x660 + at) for at in range(10)}) for value in values]

    assert read(pl.Series(written)).str.contains(finder(kind).may_hold).all()
    assert wrong([(f"see {value}!", f"see {PLACEHOLDERS[kind]}!") for value in written]) == []
    assert wrong([(f"見{value}、", f"見{PLACEHOLDERS[kind]}、") for value in written]) == []


@pytest.mark.parametrize("text", INNOCENT)
def test_program_text_versions_and_prose_stay_as_they_are(text: str) -> None:
    assert shown(text) == text
    assert shown(f"a\n{text}\nb") == f"a\n{text}\nb"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("o'brien@example.com", "<EMAIL>"),
        ("f'bob@example.com'", "f'<EMAIL>'"),
        ("DOMAIN\\tom@example.com", "DOMAIN\\t<EMAIL>"),
        ("bob\\_smith@example\\.com", "<EMAIL>"),
        ("bob@firma.intern, ann@host.local", "<EMAIL>, <EMAIL>"),
        ("postgres://admin:pa$$w0rd1@db/x", "postgres://admin:<SECRET>@db/x"),
        ("postgres://admin:KxTzQwPlMnRvBd@db/x", "postgres://admin:<SECRET>@db/x"),
        ("postgres:\\/\\/admin:p@ssw0rd@db", "postgres:\\/\\/admin:<SECRET>@db"),
        ("Order AB12 DE89 3704 0044 0532 0130 00 paid", "Order AB12 <IBAN> paid"),
        ("face:2001:4860:4860::8888", "face:<IP_ADDRESS>"),
        ("if addr == '93.184.216.34':", "if addr == '<IP_ADDRESS>':"),
        ("the new version\n93.184.216.34 - -", "the new version\n<IP_ADDRESS> - -"),
        ("1\t2\t4111 1111 1111 1111", "1\t2\t<CARD>"),
        ("4111111111111111/5500005555555559", "<CARD>/<CARD>"),
        ("#+49 30 901820, #+4930901820, $+49 30 901820", "#<PHONE>, #<PHONE>, $<PHONE>"),
        ("%s+49 30 901820%s", "%s<PHONE>%s"),
        ("%sDE89370400440532013000, %s4111111111111111", "%s<IBAN>, %s<CARD>"),
        ("%s93.184.216.34%s, --93.184.216.34--", "%s<IP_ADDRESS>%s, --<IP_ADDRESS>--"),
        ("tel=%2B49%2030%20901820&mail=jane%40example.com", "tel=<PHONE>&mail=<EMAIL>"),
        ("%adam@example.com", "%<EMAIL>"),
        ("postgres://u:p%40ss%2Fw0rd%20@host/x", "postgres://u:<SECRET>@host/x"),
        ("https://example.com/unsubscribe/jane@example.com/1", "https://example.com/unsubscribe/<EMAIL>/1"),
        ('version = "22.45.100.200", address = "93.184.216.34"', 'version = "22.45.100.200", address = "<IP_ADDRESS>"'),
        ("93.184.216.34^1", "<IP_ADDRESS>^1"),
    ],
)
def test_all_of_a_value_is_masked_and_nothing_beside_it(text: str, wanted: str) -> None:
    assert shown(text) == wanted


BODY = "\n".join("".join(random.Random(at).choices("abcXYZ0123456789+/", k=64)) for at in range(4))


@pytest.mark.parametrize("headers", ["", "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00AA\n\n", "X: a-----b\n"])
@pytest.mark.parametrize("line", ["\n", "\\n", "\\r\\n"])
@pytest.mark.parametrize("last", ["", "\nabcdEFGH12=="])
def test_a_private_key_is_masked_to_its_end_or_where_its_lines_end(headers: str, line: str, last: str) -> None:
    begin, end = "-----BEGIN RSA PRIVATE KEY-----\n", "\n-----END RSA PRIVATE KEY-----"
    cut = f"{begin}{headers}{BODY}{last}".replace("\n", line)

    assert shown(f"a {cut}") == "a <SECRET>"
    assert shown(f"a {cut}{line}{line}So it goes on.") == f"a <SECRET>{line}{line}So it goes on."
    assert shown(f"a {cut}{end} b".replace("\n", line)) == "a <SECRET> b"


@given(st.text(alphabet="a1\\nu0٠４\u200b。 %2=3Ds", max_size=40))
def test_each_character_of_a_reading_is_known_in_the_text_as_written(text: str) -> None:
    for one in readings(text):
        spans = [one.as_written(at, at + 1) for at in range(len(one.text))]

        assert all(0 <= start < end <= len(text) for start, end in spans)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
        assert all(
            text[start:end] == letter for (start, end), letter in zip(spans, one.text, strict=True) if letter == "a"
        )
