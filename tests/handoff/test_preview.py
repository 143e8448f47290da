import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from headrace.handoff.preview import preview_markdown
from headrace.text.markdown import CHARS_MAX


def test_a_preview_is_a_markdown_table_of_the_first_rows() -> None:
    table = pa.table({"term": [f"t{n}" for n in range(9)], "x": [0.123456] * 9, "ids": [list(range(20))] * 9})
    lines = preview_markdown(table).splitlines()
    assert lines[0] == "|term|x|ids|"
    assert lines[2] == "|t0|0.1235|\\[0, 1, 2, 3, 4, 5, 6, 7, …\\]|"
    assert len(lines) == 2 + 5


def test_cells_cannot_break_out_of_the_table() -> None:
    text = preview_markdown(pa.table({"text": ["a|b\nc `d` \\"]}))
    assert text.splitlines()[2] == "|a&#124;b c \\`d\\` &#92;|"


@given(
    names=st.lists(st.text(min_size=1, max_size=60), min_size=1, max_size=40, unique=True),
    cell=st.text(max_size=300) | st.none() | st.binary() | st.floats() | st.lists(st.text(max_size=99), max_size=20),
)
def test_a_preview_is_always_short_enough_to_be_shown_in_place(names: list[str], cell: object) -> None:
    table = pa.table({name: [cell] * 6 for name in names})
    assert len(preview_markdown(table)) <= CHARS_MAX < 1000


def test_a_table_without_rows_or_columns_still_has_a_preview() -> None:
    assert preview_markdown(pa.table({"a": pa.array([], pa.int8())})) == "|a|\n|-|"
    assert preview_markdown(pa.table({})) == "0 columns"


def test_a_long_id_is_shown_by_its_beginning() -> None:
    lines = preview_markdown(pa.table({"row_id": ["0123456789abcdef" * 4], "word": ["deadbeef"]})).splitlines()
    assert lines[2] == "|01234567…|deadbeef|"


def test_a_documents_text_gets_the_most_room_beside_wide_columns_and_is_the_last_to_go() -> None:
    text = "In the first days of spring the headrace is drained, and its walls are looked over for cracks. " * 3
    document = {"document_id": "0" * 32, "term": "head" * 9, "source_file": "corpus/a/long/path.jsonl", "text": text}

    def text_shown(**columns: object) -> list[str]:
        lines = preview_markdown(pa.table({name: [value] * 6 for name, value in columns.items()})).splitlines()
        at = lines[0].split("|").index("text")
        return [line.split("|")[at] for line in lines[2:]]

    assert text_shown(**document) == [text[:79] + "…"] * 5
    assert text_shown(term="headrace", text=text) == [text[:119] + "…"] * 5
    wide = document | {f"found_kind_of_personal_data_{n}": "abcdefghijklmnop" for n in range(9)}
    assert text_shown(**wide) == [text[:79] + "…"] * 3
    assert text_shown(**{f"column_of_a_name_{n}": "x" * 40 for n in range(60)}, text=text) == [text[:47] + "…"]


def test_a_short_text_takes_no_room_from_other_cells() -> None:
    lines = preview_markdown(pa.table({"text": ["a" * 9], "term": ["z" * 60]})).splitlines()
    assert lines[2] == f"|{'a' * 9}|{'z' * 47}…|"


def test_a_long_path_is_shown_by_its_end() -> None:
    lines = preview_markdown(pa.table({"source_file": [f"/data/{'deep/' * 20}part-03.jsonl"]})).splitlines()
    assert lines[2].startswith("|…")
    assert lines[2].endswith("/deep/part-03.jsonl|")
