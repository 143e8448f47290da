from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import InvalidInput
from headrace.prep.example_forms import ExamplePrompt
from headrace.prep.sources import ShardRead, read_shard
from headrace.user_files.html_encodings import WrongEncoding, decoded_page
from headrace.user_files.html_pages import PAGE_BYTES_MAX, page_of
from headrace.user_files.html_tree import ELEMENTS_MAX, RUN_MAX, NoPage
from tests.prep.builders import make_corpus, write_jsonl

DAWN = "The miller opens the gate at dawn and lets the water run down the race to the great wooden wheel."
STONES = "It turns slowly at first, and then the stones begin to grind, and the flour falls into the sacks below."
CODE = "def grind(sacks):\n    for sack in sacks:\n        yield flour(sack)"
NOISE = ("Log in", "Privacy policy", "Accept all", "Buy flour online", "tracking code", "color:red")
PAGE = f"""<!DOCTYPE html><html lang="en"><head><title>How a
 mill &amp; its wheel work</title><style>.a{{color:red}}</style></head><body>
<header><nav><ul><li><a href="/">Home</a></li><li><a href="/in">Log in</a></li></ul></nav></header>
<main><article><h1>How a mill works</h1><p>{DAWN}</p><pre><code>{CODE}
</code></pre><p>{STONES}</p><ul><li>500 g flour</li><li>300 ml water</li></ul>
<table><tr><th>Name</th><th>Weight</th></tr><tr><td>rye</td><td>25 kg</td></tr></table></article></main>
<aside class="related"><ul><li><a href="/2">Buy flour online</a></li></ul></aside>
<footer><p>© 2026 <a href="/p">Privacy policy</a></p></footer>
<div class="cookie-banner">We use cookies. <button>Accept all</button></div><script>var x="tracking code";</script>
</body></html>"""


def read(directory: Path, **changes: Any) -> ShardRead:
    columns = changes.pop("columns", {"text": "text", "term": "title"})
    prompt = ExamplePrompt(user="Tell of {term}." if "term" in columns else "Tell.")
    corpus = make_corpus(columns=columns, prompt=prompt, quarantine_share_max=1.0, **changes)
    return read_shard(corpus, "shard-00", directory)


def write(directory: Path, **bodies: bytes | str) -> None:
    (directory / "files").mkdir(exist_ok=True)
    for name, body in bodies.items():
        body = body.encode() if isinstance(body, str) else body
        (directory / "files" / f"{name}.html").write_bytes(body)


def test_a_page_keeps_its_text_code_lists_and_tables_and_loses_what_is_around_them() -> None:
    text, title = page_of(PAGE)

    assert title == "How a mill & its wheel work"
    assert [
        part for part in (DAWN, CODE, STONES, "- 500 g flour\n- 300 ml water", "| rye | 25 kg |") if part not in text
    ] == []
    assert [noise for noise in NOISE if noise in text] == []


def test_a_part_of_a_page_and_a_broken_one_have_their_text() -> None:
    assert page_of(f"<p>{DAWN}</p>") == (DAWN, None)
    assert page_of("Just <b>words</b> &lt; 3") == ("Just words < 3", None)
    text, _ = page_of(f"<html><body><article><p>{DAWN}<p>{STONES}</b></i></div></span><table><td>x")
    assert DAWN in text
    assert STONES in text


def test_pages_are_documents_with_their_title_and_one_without_text_is_an_empty_one(tmp_path: Path) -> None:
    write(tmp_path, mill=PAGE, script="<html><body><script>var x=1;</script></body></html>")
    shard = read(tmp_path)

    assert (shard.num_files, shard.quarantine.num_rows) == (2, 0)
    mill, script = shard.documents.to_pylist()
    assert (mill["term"], mill["source_line"], DAWN in mill["text"]) == ("How a mill & its wheel work", 1, True)
    assert (script["term"], script["text"]) == (None, "")


def test_the_encoding_is_the_one_that_the_page_names_or_the_corpus(tmp_path: Path) -> None:
    chinese = "磨坊主清晨打开闸门，让水顺着水渠流向巨大的木轮，水轮慢慢转动起来。"
    page = '<html><head><meta charset="{}"></head><body><article><p>{}</p></article></body></html>'
    write(
        tmp_path,
        a=page.format("gb2312", chinese).encode("gb18030"),
        b=page.format("iso-8859-1", "“Müller” – " + DAWN).encode("cp1252"),
        c=page.format("utf-16", chinese).encode("utf-16"),
        d=page.format("iso-8859-1", chinese).encode(),
        e=page.replace('<meta charset="{}">', "{}").format("", "Über " + DAWN).encode("latin-1"),
    )
    found = [row["text"] for row in read(tmp_path, columns={"text": "text"}).documents.to_pylist()]

    assert found == [chinese, f"“Müller” – {DAWN}", chinese, chinese]
    assert (
        read(tmp_path, columns={"text": "text"})
        .quarantine.to_pylist()[0]["reason"]
        .startswith("wrong encoding, wanted utf-8")
    )
    (tmp_path / "files/e.html").rename(tmp_path / "e.html")
    write(tmp_path, a=b"")
    (tmp_path / "files/f.html").write_bytes((tmp_path / "e.html").read_bytes())
    in_latin = read(tmp_path, columns={"text": "text"}, encoding=("utf-8", "latin-1"))
    assert f"Über {DAWN}" in in_latin.documents.column("text").to_pylist()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html><body>" + b"a" * PAGE_BYTES_MAX, "longer than 4,194,304 bytes, the most that one page may have"),
        (b"\x89PNG\r\n\x1a\n\xff\xd8\xff" * 20, "wrong encoding, wanted utf-8, or what its head says"),
    ],
)
def test_what_is_no_page_is_set_aside_with_its_file_and_reason(body: bytes, reason: str, tmp_path: Path) -> None:
    write(tmp_path, mill=PAGE, bad=body)
    shard = read(tmp_path)

    assert (shard.num_files_lost, shard.documents.num_rows) == (1, 1)
    [row] = shard.quarantine.to_pylist()
    assert (row["source_file"], row["source_line"], row["reason"]) == ("files/bad.html", 0, reason)


def test_elements_that_are_never_closed_lose_no_text() -> None:
    lines = "".join(f"<font size=2>Paragraph {number} tells of the mill.<br>" for number in range(400))
    text, _ = page_of(f"<html><body><article><p>{DAWN}</p>{lines}<p>{STONES}</p></article></body></html>")

    assert "Paragraph 399 tells of the mill." in text
    assert STONES in text


@pytest.mark.parametrize(
    "beginning",
    ["<div>" * 50_000, "<table><tr><td>" * 5_000, "<ul><li>" * 200],
)
def test_a_page_deeper_than_the_parser_follows_is_set_aside_not_cut(beginning: str) -> None:
    with pytest.raises(NoPage, match="its elements are nested deeper than can be read"):
        page_of(f"<html><body><p>{DAWN}</p>{beginning}<p>{STONES}</p>")


def test_a_page_at_which_trafilatura_recurses_too_deep_is_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    def recurses(*_: object, **__: object) -> str:
        raise RecursionError

    monkeypatch.setattr("trafilatura.extract", recurses)
    with pytest.raises(NoPage, match="its elements are nested deeper than can be read"):
        page_of(PAGE)


@pytest.mark.parametrize("tag", ["del", "code", "a href=/x", "x-term", "b class=k"])
def test_elements_within_a_line_that_are_never_closed_may_be_nested_as_deep_as_the_parser_goes(tag: str) -> None:
    text, _ = page_of(f"<html><body><article><p>{DAWN}</p><p>" + f"<{tag}>word " * 980)

    assert text == f"{DAWN}\n{' '.join(['word'] * 980)}"


@pytest.mark.parametrize("tag", ["<p {}>", "<script {}>", "<p {}", '<p title=">" {}>', "<!--><p {}>"])
def test_a_tag_of_very_many_attributes_is_set_aside_before_it_is_parsed(tag: str) -> None:
    many = " ".join(f"a{number}={number}" for number in range(1500))
    with pytest.raises(NoPage, match="a tag has more than 500 attributes"):
        page_of(f"<html><body>{tag.format(many)}{DAWN}")


def test_what_only_looks_like_a_tag_of_many_attributes_is_read() -> None:
    words = "word " * 3000
    around = f"<script>if (a <b) {{ {words} }}</script><!-- <b {words} --><p title='{words}'>{DAWN}</p>"
    assert page_of(f"<html><body><article>{around}</article></body></html>")[0] == DAWN


@pytest.mark.parametrize("named", ["utf-16", "UTF-16LE", "utf-32", "utf-7", "hex"])
def test_an_encoding_that_the_head_itself_is_not_in_is_not_believed(named: str, tmp_path: Path) -> None:
    page = f"<html><head><meta charset={named}></head><body><p>Café {DAWN}</p>".encode("latin-1")
    write(tmp_path, a=page + b" " * (-len(page) % 4))
    [row] = read(tmp_path, columns={"text": "text"}).quarantine.to_pylist()
    assert row["reason"].startswith("wrong encoding, wanted utf-8")


@settings(max_examples=40)
@given(st.text(alphabet="<>/&;pdiv =\"'!-\x00é水\ud800", max_size=60))
def test_any_characters_are_a_text_or_no_page(html: str) -> None:
    text, title = page_of(html.encode("utf-8", "replace").decode())

    assert isinstance(text, str)
    assert title is None or title


def test_a_column_of_html_becomes_text_line_by_line(tmp_path: Path) -> None:
    rows = [{"term": "a", "body": f"<p>{DAWN}</p>"}, {"term": "b", "body": "a" * (PAGE_BYTES_MAX + 1)}]
    write_jsonl(tmp_path / "files/a.jsonl", rows)
    shard = read(tmp_path, columns={"term": "term", "text": "body"}, text_markup="html")

    assert shard.documents.column("text").to_pylist() == [DAWN]
    [row] = shard.quarantine.to_pylist()
    assert (row["source_line"], row["reason"]) == (
        2,
        "column 'body': longer than 4,194,304 characters, the most that one page may have",
    )


def test_a_column_that_no_page_has_is_told(tmp_path: Path) -> None:
    write(tmp_path, mill=PAGE)

    [row] = read(tmp_path, columns={"text": "text", "term": "heading"}).quarantine.to_pylist()
    assert row["reason"] == "missing column 'heading'"
    with pytest.raises(InvalidInput, match="columns must map to 'text' or 'title' for HTML, got 'heading'"):
        make_corpus(format="html", columns={"text": "text", "term": "heading"}, prompt=ExamplePrompt(user="{term}?"))
    with pytest.raises(InvalidInput, match="text_markup is for a column of HTML"):
        make_corpus(format="html", columns={"text": "text"}, prompt=ExamplePrompt(user="Tell."), text_markup="html")


PARTS = [
    ("<p>Is water H<sub>2</sub>O?</p><p>Yes, <b>not</b> so <i>bad</i>ly.</p>", "Is water H2O?\nYes, not so badly."),
    ("<p>Use <a href='/x'>the wheel</a>, <span class='k'>not</span> it.</p>", "Use the wheel, not it."),
    ("<p>He said <q>it is <b>not</b> so</q>.</p>one<br>two", 'He said "it is not so".\none\ntwo'),
    ("<p>Row, row.</p>" * 3, "Row, row.\nRow, row.\nRow, row."),
    ("<pre>\ndef f():\n    <b>return</b> 1\n\n\nx  = 2\n</pre>end", "def f():\n    return 1\n\n\nx  = 2\nend"),
    ("<ul><li>a<ul><li>b</ul><li><p>c</p><p>d</p></ul><dl><dt>t<dd>u</dl>", "- a\n  - b\n- c\nd\n- t\n- u"),
    ("<table><tr><td>a <td>b<tr><td>only</table>", "| a | b |\nonly"),
    ("<table><tr><td><pre>1\n2</pre><td><pre>x\n y</pre></table>", "1\n2\nx\n y"),
    (
        "<script>a</script><p>at <time>5</time>&#1;<ruby>水<rt>mizu</rt></ruby>&nbsp;y<textarea>z</textarea></p>",
        "at 5 水 y",
    ),
    ("<pre><div>a {</div><div>  b  c</div></pre>", "a {\n  b  c"),
    (
        "<p>Area <math><mi>r</mi><annotation encoding='application/x-tex'>\\pi r^2</annotation></math>, not "
        "<math><mi>r</mi><mo>=</mo><mn>1</mn></math>.</p>",
        "Area \\(\\pi r^2\\), not r=1.",
    ),
]


@pytest.mark.parametrize(("part", "text"), PARTS)
def test_a_part_of_a_page_is_written_as_it_stands(part: str, text: str) -> None:
    assert page_of(part)[0] == text


@pytest.mark.parametrize(("part", "text"), PARTS)
def test_a_short_page_is_written_like_a_part(part: str, text: str) -> None:
    page = f"<html><body><main><p>A mill.</p>{part}</main><footer>Imprint</footer></body></html>"
    assert page_of(page)[0] == f"A mill.\n{text}"


def test_a_long_page_keeps_lines_whole_and_programs_as_they_are() -> None:
    words = "<p>Its <q>H<sub>2</sub>O</q> is at <time>5</time> <span class=k>deg</span>rees.</p>"
    code = "<pre>a = 1\n\n\n  <span class=x>b</span> =  2\n</pre>"
    text, _ = page_of(f"<html><body><article><p>{DAWN}</p>{words}{code}<p>{STONES}</p><p>{DAWN}</p></article>")

    assert text == f'{DAWN}\nIts "H2O" is at 5 degrees.\na = 1\n\n\n  b =  2\n{STONES}\n{DAWN}'


@pytest.mark.parametrize("name", ["p", "pre", "div", "h2", "blockquote", "code"])
def test_references_that_a_long_page_shows_are_not_read_as_characters(name: str) -> None:
    shown = "&lt;b&gt; x?a=1&copy=2&region=3 &amp;amp; &#64; &nbsp; a & b"
    block = f"<{name}>{shown.replace('&', '&amp;')}</{name}>"
    text, _ = page_of(f"<html><body><article><p>{DAWN}</p><p>{STONES}</p>{block}<p>{DAWN}</p></article>")

    assert shown in text


NUMBERED = "<table><tr><td><pre>1\n2\n3\n4</pre></td><td class=code><div>{}</div></td></tr></table>"


@pytest.mark.parametrize("line_end", ["\n", "<br>"])
@pytest.mark.parametrize(
    "around",
    ["{}", "<ol><li>Do:{}then</ol>", "<dl><dt>f<dd><p>Do:</p>{}</dl>", "<blockquote>{}</blockquote>", NUMBERED],
)
def test_programs_of_a_long_page_keep_their_lines_in_items_quotations_and_cells_too(around: str, line_end: str) -> None:
    code = "a = 1\n\n  b = <b>2</b>\n    c".replace("\n", line_end)
    body = f"<p>{DAWN}</p><p>{STONES}</p>{around.format(f'<pre>{code}</pre>')}"
    text, _ = page_of(f"<html><body><article>{body}<p>{DAWN}</p></article></body></html>")

    assert "\na = 1\n\n  b = 2\n    c\n" in text


def test_spans_without_end_in_a_paragraph_are_unwrapped_before_they_are_compared() -> None:
    spans = "".join(f"<span class='k'>item {number}</span> " for number in range(2 * RUN_MAX))
    text, _ = page_of(f"<html><body><nav>Menu</nav><article><p>{DAWN}</p><p>{spans}</p></article></body></html>")

    assert text.splitlines() == [DAWN, " ".join(f"item {number}" for number in range(2 * RUN_MAX))]


@pytest.mark.parametrize(
    ("element", "num"), [("word <a href='/x'>link</a> ", RUN_MAX + 1), ("<p>line</p>", ELEMENTS_MAX + 1)]
)
def test_what_would_take_minutes_is_written_whole_and_never_reaches_trafilatura(
    element: str, num: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trafilatura.extract", lambda *_, **__: pytest.fail("trafilatura was asked"))
    text, _ = page_of(f"<html><body><nav>Menu</nav><p>{DAWN}</p><div>{element * num}</div></body></html>")

    assert text.startswith(f"Menu\n{DAWN}\n")
    assert text.split()[-1] in ("link", "line")
    assert len(text.split()) >= num


def page_in(charset: str, text: str, encoding: str) -> bytes:
    head = f"<!-- was: <meta charset=koi8-r> --><script>'<meta charset=koi8-r>'</script><meta {charset}>"
    return f"<!doctype html><html><head>{head}</head><body><p>{text}</p></body></html>".encode(encoding)


@pytest.mark.parametrize(
    ("charset", "text", "encoding"),
    [
        ("charset=iso-8859-1", "Größe – “so”", "cp1252"),
        ("charset=iso-8859-1", "Größe", "utf-8"),
        ("charset=iso-2022-jp", "水車と川の話。", "iso-2022-jp"),
        ("http-equiv=Content-Type content='text/html; charset=EUC-JP'", "水車と川の話。", "euc-jp"),
        ("charset=x-sjis", "水車①", "cp932"),
        ("charset=gbk", "水车🌊", "gb18030"),
        ("charset=utf-8", "Größe", "utf-16"),
        ("charset=utf-16", "Größe", "utf-32"),
        ("charset=utf-16", "Größe", "utf-8"),
        ("charset=unicode_escape", "C:\\new\\table", "utf-8"),
        ("name=x", "Größe", "utf-8-sig"),
    ],
)
def test_a_page_is_in_the_encoding_of_its_mark_or_of_a_meta_element_of_its_head(
    charset: str, text: str, encoding: str
) -> None:
    assert page_of(decoded_page(page_in(charset, text, encoding), ("utf-8",)))[0] == text


@pytest.mark.parametrize(
    ("charset", "text", "encoding", "reason"),
    [
        ("charset=hz-gb-2312", "水车", "hz", "it declares an encoding that browsers do not read"),
        ("charset=iso-2022-kr", "물레", "iso-2022-kr", "it declares an encoding that browsers do not read"),
        ("charset=unicode_escape", "Größe", "latin-1", "wrong encoding, wanted utf-8"),
        ("charset=x-user-defined", "Größe", "latin-1", "wrong encoding, wanted utf-8"),
        ("name=x", "水車と川の話。", "iso-2022-jp", r"control character U\+001B"),
        ("name=x", "mill", "utf-16-le", r"control character U\+0000"),
    ],
)
def test_a_page_in_an_encoding_that_nobody_names_or_no_browser_reads_is_set_aside(
    charset: str, text: str, encoding: str, reason: str
) -> None:
    with pytest.raises(WrongEncoding, match=reason):
        decoded_page(page_in(charset, text, encoding), ("utf-8",))
