"""Columns of the prompt file that come along to the rows: typed, in their order, and never part of an id."""

import json
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.errors import InvalidInput
from headrace.generation.campaign import PromptSource
from headrace.generation.content_checks import check_content, check_one_list
from headrace.generation.micro_batches import committed
from headrace.generation.requests import prompts_for
from headrace.generation.review import review_rows
from headrace.handoff.export import export_file
from headrace.handoff.schemas import GENERATED_CONTENT, PROMPTS, REVIEWED_CONTENT, check_schema
from tests.generation.builders import DAY, ScriptedEngine, Site, make_campaign, make_partition

LINES = [
    {"text": f"Describe tool {n}.", "sku": f"00{n}", "price": n + 0.5, "stock": n, "new": n % 2 == 0} for n in range(5)
]
CARRY = ("sku", "price", "stock", "new")


def write_lines(file: Path, *lines: dict[str, Any]) -> None:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def drawn(home: Path, carry: tuple[str, ...]) -> pa.Table:
    campaign = make_campaign(num_shards=1, prompts=PromptSource(files=f"{DAY}.*", carry=carry))
    return prompts_for(campaign, make_partition(), home)


def carried(home: Path, *carry: str) -> pa.Table:
    return drawn(home, carry).select(carry)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A site whose prompts carry four columns."""
    write_lines(tmp_path / "prompts.jsonl", *LINES)
    source = PromptSource(files="prompts.jsonl", carry=CARRY)
    site = Site(tmp_path / "store", campaign=make_campaign(num_shards=1, prompts=source))
    site.initialize()
    site.draw_prompts(tmp_path)
    return site


def test_carried_columns_reach_generated_and_reviewed_rows_after_the_fixed_ones(site: Site) -> None:
    content = site.generate().content.table()
    reviewed = review_rows(content, site.campaign.review).table
    for name, table, fixed in (
        ("generated_content", content, GENERATED_CONTENT),
        ("reviewed_content", reviewed, REVIEWED_CONTENT),
    ):
        check_schema(name, table)
        assert table.column_names == [*fixed.names, *CARRY]
        wanted = [{column: line[column] for column in CARRY} for line in LINES]
        assert table.select(CARRY).to_pylist() == wanted


def test_carried_columns_are_exported_with_their_types(site: Site, tmp_path: Path) -> None:
    content = site.generate().content
    table = pq.read_table(export_file(content, tmp_path / "rows.parquet", "parquet"))
    assert table.select(CARRY).schema.types == [pa.large_string(), pa.float64(), pa.int64(), pa.bool_()]
    lines = export_file(content, tmp_path / "rows.jsonl", "jsonl").read_text().splitlines()
    assert [{name: row[name] for name in CARRY} for row in map(json.loads, lines)] == table.select(CARRY).to_pylist()


def test_without_carry_every_table_is_as_it_was(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.initialize()
    assert site.put_prompts().table().column_names == PROMPTS.names
    content = site.generate().content.table()
    assert content.column_names == GENERATED_CONTENT.names
    assert review_rows(content, site.campaign.review).table.schema.equals(REVIEWED_CONTENT)


def test_a_resumed_partition_carries_as_an_uninterrupted_one(site: Site, tmp_path: Path) -> None:
    whole = Site(tmp_path / "whole", campaign=site.campaign)
    whole.initialize()
    whole.draw_prompts(tmp_path)

    def lights_out() -> None:
        if committed(site.objects, site.open_claim()):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        site.generate(engine=ScriptedEngine(before=lights_out))
    assert site.generate().content.content_digest == whole.generate().content.content_digest


def test_carried_columns_change_no_id_and_are_never_sent(site: Site, tmp_path: Path) -> None:
    plain = Site(tmp_path / "plain", campaign=make_campaign(num_shards=1, prompts=PromptSource(files="prompts.jsonl")))
    plain.initialize()
    plain.draw_prompts(tmp_path)
    engines = [ScriptedEngine(), ScriptedEngine()]
    pairs = zip((site, plain), engines, strict=True)
    with_and_without = [one.generate(engine=engine).content.table() for one, engine in pairs]
    ids = [table.select(["row_id", "prompt_id", "seed", "output"]).to_pylist() for table in with_and_without]
    assert ids[0] == ids[1]
    assert engines[0].batches == engines[1].batches


def test_another_value_is_another_input_and_makes_the_rows_again(site: Site, tmp_path: Path) -> None:
    before = site.generate().content.table()
    write_lines(tmp_path / "prompts.jsonl", {**LINES[0], "sku": "changed"}, *LINES[1:])
    site.draw_prompts(tmp_path)
    after = site.generate(site.open_claim("another-run")).content.table()
    assert after["sku"].to_pylist()[0] == "changed"
    assert after["row_id"].to_pylist() == before["row_id"].to_pylist()


def test_the_check_notices_rows_that_carry_something_else(site: Site) -> None:
    outcome = site.generate()
    assert check_content(site.handoffs, site.partition.key)["rows_match_prompts"].passed
    content = outcome.content.table()
    for other in (
        content.set_column(content.column_names.index("stock"), "stock", pa.array([9] * 5)),
        content.drop_columns(["stock"]),
    ):
        inputs = outcome.content.manifest.input_versions
        site.handoffs.publish(
            "generated_content", site.partition.key, other, code_version="1", run_id="r", input_versions=inputs
        )
        finding = check_content(site.handoffs, site.partition.key)["rows_match_prompts"]
        assert not finding.passed
        assert finding.description.endswith("What the rows carry is not what their prompts carry.")


def test_the_check_of_a_days_list_notices_other_values(site: Site, tmp_path: Path) -> None:
    assert check_one_list(site.handoffs, site.campaign, site.partition, tmp_path).passed
    write_lines(tmp_path / "prompts.jsonl", {**LINES[0], "price": 99.5}, *LINES[1:])
    assert not check_one_list(site.handoffs, site.campaign, site.partition, tmp_path).passed


PARQUET: dict[str, tuple[pa.Array, pa.DataType, object]] = {
    "text": (pa.array(["007"]), pa.string(), "007"),
    "large text": (pa.array(["x"], pa.large_string()), pa.string(), "x"),
    "no text at all": (pa.array([""]), pa.string(), ""),
    "words of a dictionary": (pa.array(["x"]).dictionary_encode(), pa.string(), "x"),
    "truth": (pa.array([True]), pa.bool_(), True),
    "small whole numbers": (pa.array([7], pa.int8()), pa.int64(), 7),
    "numbers of 32 bits": (pa.array([0.5], pa.float32()), pa.float64(), 0.5),
    "days": (pa.array([date(2026, 11, 22)]), pa.date32(), date(2026, 11, 22)),
    "times": (pa.array([datetime(2026, 11, 22, 1)], pa.timestamp("us")), pa.timestamp("us"), datetime(2026, 11, 22, 1)),
    "decimals": (pa.array([Decimal("1.10")]), pa.decimal128(3, 2), Decimal("1.10")),
    "whole numbers that are all null": (pa.nulls(1, pa.int64()), pa.int64(), None),
}


@pytest.mark.parametrize("phrase", PARQUET)
def test_a_column_of_parquet_keeps_its_type(phrase: str, tmp_path: Path) -> None:
    column, kind, value = PARQUET[phrase]
    pq.write_table(pa.table({"text": ["a"], "x": column}), tmp_path / f"{DAY}.parquet")
    table = carried(tmp_path, "x")
    assert (table.schema.field("x").type, table["x"].to_pylist()) == (kind, [value])
    assert table.schema.field("x").nullable


JSON_LINES: dict[str, tuple[list[object], pa.DataType]] = {
    "texts and null": (["a", None], pa.string()),
    "whole numbers": ([1, -(2**63), 2**63 - 1], pa.int64()),
    "a number with a point among whole ones": ([1, 2.5, 3], pa.float64()),
    "truth": ([True, False], pa.bool_()),
    "nothing but null": ([None, None], pa.string()),
}


@pytest.mark.parametrize("phrase", JSON_LINES)
def test_a_column_of_json_lines_has_the_type_of_its_values(phrase: str, tmp_path: Path) -> None:
    values, kind = JSON_LINES[phrase]
    write_lines(tmp_path / f"{DAY}.jsonl", *({"text": "a", "x": value} for value in values))
    table = carried(tmp_path, "x")
    assert (table.schema.field("x").type, table["x"].to_pylist()) == (kind, values)


def test_a_key_that_some_lines_lack_is_null_there(tmp_path: Path) -> None:
    write_lines(tmp_path / f"{DAY}.jsonl", {"text": "a"}, {"text": "b", "x": 1})
    assert carried(tmp_path, "x")["x"].to_pylist() == [None, 1]


def test_a_csv_carries_text_and_an_empty_cell_is_null(tmp_path: Path) -> None:
    (tmp_path / f"{DAY}.csv").write_text("text,sku,price\na,007,1.5\nb,,\n")
    table = carried(tmp_path, "sku", "price")
    assert table.to_pylist() == [{"sku": "007", "price": "1.5"}, {"sku": None, "price": None}]
    assert set(table.schema.types) == {pa.string()}


def test_columns_come_in_the_order_in_which_carry_names_them(tmp_path: Path) -> None:
    write_lines(tmp_path / f"{DAY}.jsonl", {"b": 1, "a": 2, "text": "x"})
    assert drawn(tmp_path, ("b", "a")).column_names == [*PROMPTS.names, "b", "a"]
    assert drawn(tmp_path, ("a", "b")).column_names == [*PROMPTS.names, "a", "b"]


def test_files_of_several_formats_have_one_type_a_column(tmp_path: Path) -> None:
    write_lines(tmp_path / f"{DAY}.jsonl", {"text": "a", "x": 1})
    pq.write_table(pa.table({"text": ["b"], "x": pa.array([0.5], pa.float32())}), tmp_path / f"{DAY}.parquet")
    table = carried(tmp_path, "x")
    assert (table.schema.field("x").type, table["x"].to_pylist()) == (pa.float64(), [1.0, 0.5])


def _json(*values: object) -> Callable[[Path], None]:
    return lambda home: write_lines(home / f"{DAY}.jsonl", *({"text": "a", "x": value} for value in values))


def _parquet(column: pa.Array) -> Callable[[Path], None]:
    return lambda home: pq.write_table(pa.table({"text": ["a"] * len(column), "x": column}), home / f"{DAY}.parquet")


def _csv_beside_json(home: Path) -> None:
    (home / f"{DAY}.csv").write_text("text,x\na,1\n")
    _json(1)(home)


UNFIT: dict[str, tuple[Callable[[Path], None], str]] = {
    "text among whole numbers": (
        _json(1, "two"),
        r"\.jsonl line 2: column 'x', which carry names, must hold whole numbers as in .*\.jsonl line 1, got 'two'\. "
        "Repair it, then materialize prompts again",
    ),
    "truth among texts": (_json("a", True), r"line 2: .* must hold text as in .* line 1, got True"),
    "a list": (_json(["a"]), r"line 1: .* must hold text, a number, or true or false, got a list"),
    "an object": (_json({"a": 1}), r"line 1: .* got an object"),
    "a whole number without end": (_json(2**63), r"line 1: .* must hold a whole number within ±2\^63, got 9223"),
    "a whole number that no float is": (
        _json(2**53 + 1, 0.5),
        r"line 1: .* must hold a number that float64 can hold beside the column's others, got 9007199254740993",
    ),
    "half of a surrogate pair": (_json("a \ud83d"), "line 1 holds half of a surrogate pair"),
    "a list of Parquet": (
        _parquet(pa.array([["a"]])),
        r"\.parquet: column 'x' is of type list<.*string>, and carry takes text, .* Take it out of carry",
    ),
    "a CSV's texts beside numbers": (_csv_beside_json, r"\.jsonl line 1: .* must hold text as in .*\.csv, got 1"),
    "an unsigned number without end": (_parquet(pa.array([2**64 - 1], pa.uint64())), r"row 1: .* within ±2\^63"),
}


@pytest.mark.parametrize("phrase", UNFIT)
def test_a_value_that_does_not_fit_its_column_is_refused_with_its_line(phrase: str, tmp_path: Path) -> None:
    write, message = UNFIT[phrase]
    write(tmp_path)
    with pytest.raises(InvalidInput, match=message):
        carried(tmp_path, "x")


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_misspelt_column_is_refused_with_the_columns_that_there_are(suffix: str, tmp_path: Path) -> None:
    table = pa.table({"text": ["a"], "sku": ["b"]})
    {
        "jsonl": lambda file: write_lines(file, *table.to_pylist()),
        "csv": lambda file: file.write_text("text,sku\na,b\n"),
        "parquet": lambda file: pq.write_table(table, file),
    }[suffix](tmp_path / f"{DAY}.{suffix}")
    with pytest.raises(InvalidInput, match=r"names the column 'skew', which no line has|missing column 'skew'"):
        carried(tmp_path, "skew")


def test_plain_text_has_no_column_to_carry(tmp_path: Path) -> None:
    (tmp_path / f"{DAY}.txt").write_text("a\n")
    with pytest.raises(InvalidInput, match=r"\.txt is plain text, whose lines have no column 'x' to carry"):
        carried(tmp_path, "x")
