import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidInput
from headrace.generation.campaign import PromptSource
from headrace.generation.requests import Row, plan_micro_batches, prompts_for, rows_for
from headrace.handoff.schemas import check_schema
from tests.generation.builders import DAY, make_campaign, make_partition, make_prompts


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    lines = [json.dumps({"term": f"term {n}", "text": f"prompt {n}"}) for n in range(100)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def ids_of(home: Path, day: str = DAY, **changes: object) -> list[list[str]]:
    campaign = make_campaign(**changes)
    tables = [prompts_for(campaign, make_partition(shard, day), home) for shard in range(campaign.num_shards)]
    return [table["prompt_id"].to_pylist() for table in tables]


def texts_of(home: Path, shard: int = 0, day: str = DAY, **changes: object) -> list[str]:
    return prompts_for(make_campaign(**changes), make_partition(shard, day), home)["text"].to_pylist()


def test_days_and_shards_draw_different_prompts_of_a_pool(pool: Path) -> None:
    drawn = [
        text for day in (DAY, "2026-11-23", "2026-11-24") for shard in range(4) for text in texts_of(pool, shard, day)
    ]
    assert len(drawn) == len(set(drawn)) == 72


def test_a_draw_does_not_depend_on_the_order_of_the_file(pool: Path) -> None:
    before = texts_of(pool)
    file = pool / "prompts.jsonl"
    file.write_text("\n".join(reversed(file.read_text().splitlines())))
    assert texts_of(pool) == before


def test_prompts_have_the_columns_that_their_readers_expect(pool: Path) -> None:
    table = prompts_for(make_campaign(), make_partition(), pool)
    check_schema("prompts", table)
    assert table["position"].to_pylist() == list(range(6))


def test_a_draw_beyond_its_pool_is_refused_with_both_numbers(pool: Path) -> None:
    source = PromptSource(files="prompts.jsonl", per_shard=26)
    message = (
        r"'glossary' draws 104 prompts a day \(per_shard 26, num_shards 4\), and its pool prompts.jsonl holds 100: "
        r"some would be made twice. Lower per_shard, leave it out for the whole pool, or use variations"
    )
    with pytest.raises(InvalidInput, match=message):
        texts_of(pool, prompts=source)


def test_a_pool_without_a_draw_is_dealt_whole_every_day_in_its_order(pool: Path) -> None:
    source = PromptSource(files="prompts.jsonl")
    today, tomorrow = (
        [texts_of(pool, shard, day, prompts=source) for shard in range(4)] for day in (DAY, "2026-11-23")
    )
    assert today == tomorrow == [[f"prompt {n}" for n in range(shard, 100, 4)] for shard in range(4)]
    ids = [one for day in (DAY, "2026-11-23") for shard in ids_of(pool, day, prompts=source) for one in shard]
    assert len(ids) == len(set(ids)) == 200


def test_the_same_line_twice_in_a_pool_is_two_prompts(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("again\nagain\n")
    ids = ids_of(tmp_path, num_shards=1, prompts=PromptSource(files="prompts.txt"))[0]
    assert len(set(ids)) == 2


def test_a_pool_that_holds_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text("")
    with pytest.raises(InvalidInput, match="The prompt pool prompts.jsonl of campaign 'glossary' is empty"):
        texts_of(tmp_path, prompts=PromptSource(files="prompts.jsonl"))


def test_the_same_prompt_on_another_day_is_another_prompt(pool: Path) -> None:
    source = PromptSource(files="prompts.jsonl", per_shard=25)
    today, tomorrow = ids_of(pool, prompts=source), ids_of(pool, "2026-11-23", prompts=source)
    assert not {one for shard in today for one in shard} & {one for shard in tomorrow for one in shard}


def test_a_days_own_files_are_dealt_to_all_shards(tmp_path: Path) -> None:
    (tmp_path / f"{DAY}.txt").write_text("\n".join(f"prompt {n}" for n in range(10)))
    source = PromptSource(files="{day}.txt")
    dealt = [texts_of(tmp_path, shard, prompts=source) for shard in range(4)]
    assert sorted(len(one) for one in dealt) == [2, 2, 3, 3]
    assert sorted(text for one in dealt for text in one) == sorted(f"prompt {n}" for n in range(10))


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_prompts_are_made_from_columns_by_a_template(tmp_path: Path, suffix: str) -> None:
    frame = pl.DataFrame({"term": ["mill", "weir"], "category": ["noun", "noun"]})
    file = tmp_path / f"{DAY}.{suffix}"
    {"csv": frame.write_csv, "parquet": frame.write_parquet, "jsonl": frame.write_ndjson}[suffix](file)
    source = PromptSource(files="{day}.*", template='Define the {category} "{term}".', term_column="term")
    table = prompts_for(make_campaign(num_shards=1, prompts=source), make_partition(), tmp_path)
    assert table["text"].to_pylist() == ['Define the noun "mill".', 'Define the noun "weir".']
    assert table["term"].to_pylist() == ["mill", "weir"]


@pytest.mark.parametrize(
    ("name", "body", "message"),
    {
        "no file": ("other.jsonl", "", "No prompt file matches .*2026-11-22.jsonl. Put the day's prompts there"),
        "not JSON": (
            f"{DAY}.jsonl",
            '{"text": "a"}\n{"text"',
            r"line 2: not JSON: Expecting ':' delimiter: line 2 column 8, got '\{\"text\"'\. Repair it",
        ),
        "no object": (f"{DAY}.jsonl", '"a"', r"line 1: not a JSON object, got '\"a\"'\. Repair it"),
        "no column": (f"{DAY}.jsonl", '{"prompt": "a"}', r"line 1 has no column 'text' \(it has prompt\)"),
        "no text": (f"{DAY}.jsonl", '{"text": "a"}\n\n{"text": " "}', "line 3 holds no prompt: its text is empty"),
    }.values(),
)
def test_a_prompt_that_cannot_be_used_is_refused_with_its_line(
    tmp_path: Path, name: str, body: str, message: str
) -> None:
    (tmp_path / name).write_text(body)
    with pytest.raises(InvalidInput, match=message):
        texts_of(tmp_path, prompts=PromptSource(files="{day}.jsonl"))


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / f"{DAY}.txt").write_bytes("caf\u00e9".encode("latin-1"))
    with pytest.raises(InvalidInput, match="line 1: wrong encoding, wanted utf-8"):
        texts_of(tmp_path, prompts=PromptSource(files="{day}.txt"))


def test_prompts_may_be_in_several_encodings_and_have_a_delimiter_of_their_own(tmp_path: Path) -> None:
    (tmp_path / f"{DAY}-a.csv").write_bytes("text#x\nMühle#1\n".encode("latin-1"))
    (tmp_path / f"{DAY}-b.csv").write_bytes("text#x\nWehr – Rad#1\n".encode())
    source = PromptSource(files="{day}-*.csv", encoding=("utf-8", "latin-1"), delimiter="#")
    assert texts_of(tmp_path, num_shards=1, prompts=source) == ["Mühle", "Wehr – Rad"]


def test_a_file_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / f"{DAY}.docx").write_text("a")
    with pytest.raises(InvalidInput, match=r"\.docx does not tell its format, wanted one of .*set format to jsonl"):
        texts_of(tmp_path, prompts=PromptSource(files="{day}.docx"))


def test_a_partition_beyond_the_campaigns_shards_is_refused(pool: Path) -> None:
    with pytest.raises(InvalidInput, match=r"2026-11-22\|glossary-07 is not one of campaign 'glossary'.* 0 to 3 a day"):
        texts_of(pool, shard=7)


def test_another_version_set_makes_other_rows_of_the_same_prompts() -> None:
    prompts = make_prompts(["one", "two"])
    first, again, other = rows_for(prompts, "set-a"), rows_for(prompts, "set-a"), rows_for(prompts, "set-b")
    assert first == again
    assert {row.row_id for row in first}.isdisjoint(row.row_id for row in other)
    assert all(0 <= row.seed < 2**63 for row in first)


@given(lengths=st.lists(st.integers(1, 40), max_size=30), size=st.integers(1, 8), salt=st.randoms())
def test_micro_batches_hold_every_row_once_whatever_order_rows_come_in(lengths, size, salt) -> None:
    rows = [
        Row(row_id=f"row-{index:02d}", prompt_id="", position=index, prompt="x" * length, seed=0)
        for index, length in enumerate(lengths)
    ]
    planned = plan_micro_batches(rows, size)
    assert sorted(row.row_id for batch in planned for row in batch) == [row.row_id for row in rows]
    sizes = [len(batch) for batch in planned]
    assert all(0 < one <= size for one in sizes)
    assert not sizes or max(sizes) - min(sizes) <= 1
    assert [len(row.prompt) for batch in planned for row in batch] == sorted(lengths)
    shuffled = list(rows)
    salt.shuffle(shuffled)
    assert plan_micro_batches(shuffled, size) == planned
