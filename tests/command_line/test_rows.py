"""`headrace trace` and `headrace export`: where a row comes from, and rows for other programs."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from typer.testing import Result

from headrace.clock import FixedClock
from headrace.command_line.tracing import model_facts
from headrace.generation.campaign import PromptSource
from headrace.generation.left_behind import NUM_SHARDS
from headrace.generation.prompt_places import seal_places
from headrace.generation.requests import prompts_with_places
from headrace.generation.review import review_rows
from headrace.generation.review_settings import ReviewSettings
from headrace.generation.tracing import TracedModel
from headrace.handoff.collecting import collect, plan_collection
from headrace.handoff.layout import manifest_key
from headrace.handoff.versions import HandoffStore
from headrace.registry.model_versions import to_table
from headrace.store.local import LocalStore
from headrace.store.protection import Answer, Named, installed
from simulation.models import model_of
from tests.command_line.builders import checked_json, run
from tests.generation.builders import TEXTS, Site, make_campaign, make_partition, make_prompts, make_site
from tests.rollout.builders import make_member, make_set

DAY = "2026-11-22"


class Written:
    """A store with one campaign's day: two sealed and reviewed partitions, some rows rejected."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.rows: list[dict[str, object]] = []
        for shard in (0, 1):
            site = Site(directory, partition=make_partition(shard))
            if not shard:
                self.version_set = site.initialize()
                site.handoffs.publish(
                    "registered_version", "tiny.define", to_table([model_of("tiny", 1)]), code_version="1", run_id="r"
                )
            site.put_prompts([f"{text} {shard}" for text in TEXTS])
            made = site.generate()
            # Some words more or less than half of the rows have.
            review = review_rows(made.content.table(), ReviewSettings(words_min=10))
            site.handoffs.publish("reviewed_content", site.partition.key, review.table, code_version="1", run_id="r")
            self.rows += review.table.to_pylist()

    def call(self, *arguments: str | Path) -> Result:
        return run(*arguments, store=self.directory)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return Written(tmp_path_factory.mktemp("written"))


def test_a_row_is_traced_to_prompt_models_seed_run_and_review(written: Written) -> None:
    row = written.rows[3]

    body = checked_json(written.call("trace", str(row["row_id"])[:12], "--json"), "trace")

    assert body["row"]["output"] == row["output"]
    assert body["prompt"]["text"] == row["prompt"]
    assert body["review"]["kept"] == row["kept"]
    assert body["run"]["deterministic"] is True
    assert (body["models"][0]["model"], body["models"][0]["version"]) == ("tiny", "1")
    assert body["models"][0]["recipe"] == model_of("tiny", 1).recipe
    assert body["replaced_by"] is None


def test_a_row_that_echo_or_a_package_made_is_not_said_to_be_a_servers() -> None:
    member = make_member(weights_uri="")
    model = TracedModel(member=member, registered=None, training_inputs={})
    for engine, told in (
        ({"name": "echo"}, "none: the engine echo works without a model"),
        ({"name": "hibari"}, "unknown: a model in the package of the engine hibari"),
        ({"name": "openai_http", "base_url": "http://a/v1"}, "unknown: a server's own model"),
    ):
        assert ["training", told] in model_facts(model, make_set(member, **engine).engine)


def test_people_read_the_same(written: Written) -> None:
    row = written.rows[0]

    output = written.call("trace", str(row["row_id"])).output

    assert str(row["output"]) in output
    assert written.version_set in output
    assert "in the newest version" in output


def test_a_row_leads_back_to_the_line_of_its_prompt(tmp_path: Path) -> None:
    home, partition = tmp_path / "home", make_partition()
    home.mkdir()
    (home / "prompts.csv").write_text('text\n"Tell of\na kettle."\nTell of a lamp.\n')
    site = Site(home / "store", campaign=make_campaign(num_shards=1, prompts=PromptSource(files="*.csv")))
    site.initialize()
    prompts, places = prompts_with_places(site.campaign, partition, home)
    site.seal_prompts(prompts)
    row = site.generate().content.table()["row_id"][1].as_py()

    def traced(*arguments: str) -> Result:
        return run("trace", row, *arguments, store=home / "store", env={"HEADRACE_HOME": str(home)})

    assert "prompt file  unknown: the prompts were listed before places were kept" in traced().output
    seal_places(site.handoffs, partition.key, prompts, places, run_id="r")
    assert f"prompt file  {home}/prompts.csv:4\n" in traced().output
    assert checked_json(traced("--json"), "trace")["place"] == {
        "file": "prompts.csv",
        "number": 4,
        "unit": "line",
        "now": "unchanged",
    }
    (home / "prompts.csv").write_text("text\nTell of a lamp.\n")
    assert f"{home}/prompts.csv:4, which has changed since\n" in traced().output
    (home / "prompts.csv").unlink()
    assert f"{home}/prompts.csv:4, which is gone\n" in traced().output


def test_a_row_is_found_by_its_id_in_capitals(written: Written) -> None:
    row = str(written.rows[0]["row_id"])

    assert checked_json(written.call("trace", row[:16].upper(), "--json"), "trace")["row"]["row_id"] == row


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("abc", "at least 6 characters"),
        ("not-hexadecimal", "in hexadecimal, got 'not-hexadecimal'"),
        ("0" * 64, "No row with id"),
    ],
)
def test_a_row_that_is_not_there_is_said(written: Written, row: str, sentence: str) -> None:
    result = written.call("trace", row)

    assert result.exit_code == 2
    assert sentence in result.output


@pytest.mark.parametrize("what", ["glossary", DAY, "SET"])
def test_kept_rows_of_all_partitions_come_in_one_file(written: Written, tmp_path: Path, what: str) -> None:
    target = tmp_path / "rows.parquet"

    result = written.call("export", written.version_set[:8] if what == "SET" else what, target)

    assert result.exit_code == 0, result.output
    kept = [row for row in written.rows if row["kept"]]
    assert 0 < len(kept) < len(written.rows)
    frame = pl.read_parquet(target)
    assert frame["output"].to_list() == [row["output"] for row in kept]
    assert "rejected_by" not in frame.columns


@pytest.mark.parametrize("is_stated", [True, False], ids=["stated", "of an earlier Headrace"])
def test_partitions_that_a_lower_num_shards_left_behind_give_no_row_twice(tmp_path: Path, is_stated: bool) -> None:
    clock = FixedClock()

    def make(shard: int, texts: list[str], num_shards: int = 2) -> None:
        site = Site(tmp_path / "store", partition=make_partition(shard), clock=clock)
        site.seal_prompts(make_prompts(texts), {NUM_SHARDS: str(num_shards)} if is_stated else None)
        clock.advance(1)
        content = site.generate(site.open_claim(f"run of {len(texts)}")).content
        review = review_rows(content.table(), ReviewSettings())
        site.handoffs.publish("reviewed_content", site.partition.key, review.table, code_version="1", run_id="r")

    Site(tmp_path / "store").initialize()
    make(0, TEXTS[:2])
    make(1, TEXTS[2:4])
    both = run("export", "glossary", tmp_path / "both.jsonl", store=tmp_path / "store")
    make(0, TEXTS[:4], 1)
    one = run("export", "glossary", tmp_path / "one.jsonl", store=tmp_path / "store")

    first, second = (pl.read_ndjson(tmp_path / name) for name in ("both.jsonl", "one.jsonl"))
    assert sorted(first["row_id"]) == sorted(second["row_id"])
    assert second["row_id"].n_unique() == 4
    assert "without" not in both.output
    left = f"without {make_partition(1).key}, whose prompts are in other partitions since num_shards changed"
    assert left in " ".join(one.output.split())


def test_rejected_rows_come_with_their_reasons_if_asked_for(written: Written, tmp_path: Path) -> None:
    written.call("export", "glossary", tmp_path / "rows.jsonl", "--rejected")

    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]

    assert [row["rejected_by"] for row in rows] == [row["rejected_by"] for row in written.rows]


def test_a_dataset_has_a_card_that_datasets_reads(written: Written, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    result = written.call("export", "glossary", tmp_path / "hub", "--format", "dataset")
    assert result.exit_code == 0, result.output

    loaded = datasets.load_dataset(str(tmp_path / "hub"), cache_dir=str(tmp_path / "cache"))["train"]

    assert loaded["output"][:] == [row["output"] for row in written.rows if row["kept"]]
    card = (tmp_path / "hub/README.md").read_text()
    assert written.version_set in card
    assert written.call("export", "glossary", tmp_path / "hub", "--format", "dataset").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing", "x.csv"], "Nothing in this store is called 'nothing': name a campaign (glossary)"),
        (["2020-01-01", "x.csv"], "There is nothing to export: day 2020-01-01"),
        (["glossary", "x.doc"], "--format is needed"),
        (["glossary", "x.csv", "--columns", "outputs"], "Did you mean output"),
        (["prompts", "x.csv", "--day", DAY], "--day goes with a campaign or a version set"),
        ([DAY, "x.csv", "--day", DAY], "--day goes with a campaign or a version set"),
        (["glossary", "x.csv", "--day", "banana"], "--day must be a day such as"),
        (["glossary", "x.csv", "--columns", "output,output"], "--columns must name each column once"),
        (["glossary", "x", "--format", "dataset", "--force"], "--force does not go with a dataset"),
        (["glossary", "-", "--format", "dataset"], "A dataset cannot go to stdout: name a place on a disk."),
        (
            ["glossary", "x", "-f", "xlsx"],
            "--format must be one of parquet, csv, jsonl, arrow, dataset, folder, got 'xlsx'.",
        ),
    ],
)
def test_what_cannot_be_exported_is_said(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)

    result = written.call("export", *arguments)

    assert result.exit_code == 2
    assert sentence in result.output
    assert not list(tmp_path.glob("*"))


def test_a_row_whose_newest_version_cannot_be_read_is_not_said_to_be_in_it(written: Written, tmp_path: Path) -> None:
    store = Path(shutil.copytree(written.directory, tmp_path / "store"))
    handoffs = HandoffStore(LocalStore(store))
    key = make_partition(0).key
    content = handoffs.open("generated_content", key)
    handoffs.publish("generated_content", key, content.table().slice(1), code_version="1", run_id="r")
    [manifest] = [one for one in LocalStore(store).list("handoff") if "v000002" in one and "generated_content" in one]
    (store / manifest).chmod(0o600)
    (store / manifest).write_bytes(b"{}")

    body = checked_json(run("trace", str(written.rows[0]["row_id"]), "--json", store=store), "trace")

    assert body["is_in_newest"] is None
    assert body["damaged"]


def test_rows_go_to_a_pipe_too(written: Written) -> None:
    result = written.call("export", "glossary", "-", "--format", "jsonl")

    assert [json.loads(line)["output"] for line in result.stdout.splitlines()] == [
        row["output"] for row in written.rows if row["kept"]
    ]


def test_a_mirrors_row_is_traced_to_the_published_one_that_it_was_made_to_compare_with(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    published = site.generate().content.table().to_pylist()[2]
    site.start(2, weight=0.1)
    row = site.mirror().content.table().to_pylist()[2]

    body = checked_json(run("trace", row["row_id"], "--json", store=tmp_path), "trace")
    output = run("trace", row["row_id"], store=tmp_path).output

    assert (body["is_mirrored"], body["row"]["output"]) == (True, row["output"])
    assert body["comparison"]["published_row_id"] == published["row_id"]
    assert body["run"]["row_id"] == row["row_id"]
    assert body["prompt"]["text"] == row["prompt"]
    assert f"now          mirrored, never published: compare {published['row_id']}" in output
    assert "review       kept; the published row: kept" in output


def test_a_row_has_the_review_of_its_own_version_and_not_of_the_newest(tmp_path: Path) -> None:
    site = make_site(tmp_path)

    def review(words_min: int) -> None:
        content = site.handoffs.open("generated_content", site.partition.key)
        site.handoffs.publish(
            "reviewed_content",
            site.partition.key,
            review_rows(content.table(), ReviewSettings(words_min=words_min)).table,
            code_version="1",
            run_id="r",
            input_versions={f"{content.asset}[{content.partition}]": f"v{content.version} {content.content_digest}"},
        )

    row = site.generate().content.table()["row_id"][0].as_py()
    review(100)
    site.start(2)
    site.promote(2)
    site.generate(site.open_claim("run-2", regenerate="current_set"))
    review(1)

    body = checked_json(run("trace", row, "--json", store=tmp_path), "trace")

    assert (body["version"], body["replaced_by"]) == (1, 2)
    assert body["review"]["rejected_by"] == ["length"]


def test_what_trace_tells_of_rows_that_stay_is_not_collected(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "prompts.csv").write_text("text\nTell of a kettle.\nTell of a lamp.\n")
    site = Site(home / "store", campaign=make_campaign(num_shards=1, prompts=PromptSource(files="*.csv")))
    site.initialize()
    partition = site.partition

    def draw() -> None:
        prompts, places = prompts_with_places(site.campaign, partition, home)
        site.seal_prompts(prompts)
        seal_places(site.handoffs, partition.key, prompts, places, run_id="r")

    draw()
    row = site.generate().content.table()["row_id"][1].as_py()
    key = manifest_key("generated_content", partition.key, 1)
    for number in (2, 3):
        (home / "prompts.csv").write_text(f"text\nTell of {number} bells.\n")
        draw()
        site.generate(site.open_claim(f"run-{number}"))
    plan = plan_collection(
        site.objects,
        site.clock,
        keep_versions=1,
        grace_seconds=0,
        protectors={**installed(), "dagster": lambda asked: Answer(named=[Named(key=key, reason="named by Dagster")])},
    )
    stays = {(one.found.asset, one.found.version): one.reason for one in plan.versions if one.is_kept}
    collect(site.objects, site.clock, plan)

    assert stays["execution", 1] == "belongs to a version of generated_content that stays"
    assert stays["prompt_places", 1] == "belongs to a version of prompts that stays"
    assert {version for asset, version in stays if asset == "generated_content"} == {1, 3}
    assert ("execution", 2) not in stays
    body = checked_json(run("trace", row, "--json", store=home / "store", env={"HEADRACE_HOME": str(home)}), "trace")
    assert body["place"]["number"] == 3
    assert body["run"]["row_id"] == row
