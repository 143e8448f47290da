"""`headrace init` and `headrace preview`: from somebody's prompts to a campaign file and its first rows."""

import json
import re
from pathlib import Path

import pytest
import yaml

from headrace.command_line.project import find_project
from headrace.errors import InvalidInput
from headrace.generation.campaign import load_campaign
from tests.command_line.builders import checked_json
from tests.command_line.own_project import PRODUCTS, Project
from tests.generation.builders import TEXTS


def test_three_commands_begin_with_a_short_file_that_editors_know(project: Project) -> None:
    result = project.init("--template", "A tagline for {product}.")

    assert result.exit_code == 0, result.output
    assert len(project.lines) <= 15
    assert project.lines[0].startswith("# yaml-language-server: $schema=")
    schema = project.campaigns / project.lines[0].partition("=")[2]
    assert json.loads(schema.read_text())["title"] == "Headrace campaign"
    assert "headrace preview products" in result.output
    assert "headrace run products" in result.output


@pytest.mark.parametrize("name", ["{new} $USD [1].csv", "100%EUR%.csv", "a [b].csv", "{day}.csv"])
def test_a_file_of_any_name_is_found_again(project: Project, name: str) -> None:
    (project.root / name).write_text(PRODUCTS)
    result = project.init("--template", "A tagline for {product}.", "--name", "odd", prompts=name)

    assert result.exit_code == 0, result.output
    assert project.call("preview", "odd").exit_code == 0


def test_the_preview_shows_prompts_as_rendered_and_their_rows(project: Project) -> None:
    project.init("--template", "A tagline for {product}.")

    result = project.call("preview", "products", "-n", "2", "--json")

    body = checked_json(result, "preview")
    assert {row["prompt"] for row in body["rows"]} < {f"A tagline for {one}." for one in ("kettle", "lamp", "tent")}
    assert all(row["kept"] and len(row["row_id"]) == 64 for row in body["rows"])
    assert not (project.root / ".headrace/store").exists()


def test_a_preview_tells_at_once_that_a_server_is_away(project: Project) -> None:
    project.init("--template", "A tagline for {product}.", "--model", "qwen", engine="http://127.0.0.1:9/v1")

    result = project.call("preview", "products")

    assert result.exit_code != 0
    assert (
        "Campaign 'products': engine.base_url http://127.0.0.1:9/v1 takes no connection: start the server, or correct "
        "the address. `--engine echo` shows the prompts without it."
    ) in " ".join(result.output.split())
    assert project.call("preview", "products", "--engine", "echo").exit_code == 0


def test_a_preview_is_a_table_for_people(project: Project) -> None:
    project.init("--template", "A tagline for {product}.")

    lines = project.call("preview", "products").output.splitlines()

    assert lines[0].split() == ["PROMPT", "ROW", "REVIEW", "ID"]
    assert lines[-1].startswith("3 of 3 rows of products on ")
    assert lines[-1].endswith("Nothing was sealed.")


def test_a_long_prompt_does_not_fill_the_screen_and_is_whole_in_json(project: Project) -> None:
    (project.root / "long.txt").write_text("a page " * 20_000 + "\nshort\n")
    project.init(prompts="long.txt")

    lines = project.call("preview", "long").output.splitlines()
    body = checked_json(project.call("preview", "long", "--json"), "preview")

    assert max(map(len, lines)) < 1000
    assert any("a page a page a" in line and "…" in line for line in lines)
    assert max(len(row["prompt"]) for row in body["rows"]) == len("a page " * 20_000)


def test_what_a_run_would_begin_with_is_json_too(project: Project) -> None:
    project.init("--template", "A tagline for {product}.")

    body = checked_json(project.call("run", "products", "--day", "2026-11-22", "--dry-run", "--json"), "run-dry-run")

    assert [(one["job"], one["asset"], one["partition"]) for one in body["missing"]] == [
        ("roll_out", "rollout", "products"),
        ("list_prompts", "prompts", "2026-11-22|products-00"),
        ("report", "campaign_report", "2026-11-22"),
    ]


def test_commands_work_from_any_directory_of_the_project(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.init("--template", "A tagline for {product}.")
    (project.root / "some/where").mkdir(parents=True)
    monkeypatch.chdir(project.root / "some/where")

    assert project.call("preview", "products").exit_code == 0


def test_a_column_of_prompts_needs_no_template(project: Project) -> None:
    (project.root / "q.jsonl").write_text("\n".join(json.dumps({"prompt": text}) for text in TEXTS))

    result = project.init(prompts="q.jsonl")

    assert result.exit_code == 0, result.output
    assert yaml.safe_load("\n".join(project.lines))["prompts"]["column"] == "prompt"


def test_text_has_a_prompt_a_line(project: Project) -> None:
    (project.root / "lines.txt").write_text("\n".join(TEXTS))

    assert project.init(prompts="lines.txt").exit_code == 0
    assert json.loads(project.call("preview", "lines", "--json").output)["num_rows_of_day"] == len(TEXTS)


def test_a_model_directory_is_named_by_its_weights(project: Project, tiny_model: Path) -> None:
    result = project.init("--template", "{product}", engine=str(tiny_model))

    assert result.exit_code == 0, result.output
    [file] = project.campaigns.glob("*.yaml")
    role = load_campaign(file).parts["writer"]
    assert (role.weights, role.engine.name) == (str(tiny_model), "transformers")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["init"], "--prompts is missing"),
        (["init", "--prompts", "none.csv"], "--prompts must be a file, got none.csv, which does not exist"),
        (["init", "--prompts", "products.csv"], "--template is missing: The prompt's text, with columns in one pair"),
        (["init", "--prompts", "products.csv", "--template", "{product}"], "--engine is missing"),
        (["preview", "none"], "There is no directory of campaigns at .*/resources/campaigns; make it"),
        (["preview", "none.yaml"], "none.yaml"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(project: Project, arguments: list[str], sentence: str) -> None:
    result = project.call(*arguments)

    assert result.exit_code == 2
    assert len(result.output.strip().splitlines()) == 1
    assert re.search(sentence, result.output)


def test_a_template_that_no_prompt_fits_writes_no_file(project: Project) -> None:
    result = project.init("--template", "A tagline for {produkt}.")

    assert result.exit_code == 2
    assert "has no column 'produkt'" in result.output or "missing column 'produkt'" in result.output
    assert not list(project.campaigns.glob("*"))


def test_a_file_that_is_there_is_kept(project: Project) -> None:
    project.init("--template", "{product}")
    before = project.lines

    result = project.init("--template", "another {product}")

    assert result.exit_code == 2
    assert "is there already" in result.output
    assert project.lines == before
    assert project.init("--template", "another {product}", "--force").exit_code == 0


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_a_delimiter_shows_in_the_header(project: Project, delimiter: str) -> None:
    rows = ["sku;Produkt;Preis", "000;Kühlschrank (grün);9,90"]
    (project.root / "produkte.csv").write_text("\n".join(rows).replace(";", delimiter) + "\n")

    result = project.init("--template", "Ein Spruch: {Produkt}.", prompts="produkte.csv")

    assert result.exit_code == 0, result.output
    body = checked_json(project.call("preview", "produkte", "--json"), "preview")
    assert [row["prompt"] for row in body["rows"]] == ["Ein Spruch: Kühlschrank (grün)."]


def test_a_file_that_is_not_utf_8_is_told_so_in_what_is_written(project: Project) -> None:
    (project.root / "old.csv").write_bytes("name\nKühlschrank\n".encode("latin-1"))

    assert project.init("--template", "{name}", prompts="old.csv").exit_code == 0
    assert "  encoding: [utf-8, latin-1]" in project.lines


def test_what_stands_between_braces_is_quoted(project: Project) -> None:
    url = "http://[::1]:8000/v1"

    result = project.init("--template", "{product}", "--model", "llama3:8b, x", engine=url)

    assert result.exit_code == 0, result.output
    [file] = project.campaigns.glob("*.yaml")
    options = load_campaign(file).parts["writer"].engine.options
    assert (options.base_url, options.model) == (url, "llama3:8b, x")


def test_places_in_the_projects_settings_hold_in_every_directory(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.root / ".env").write_text("HEADRACE_CAMPAIGNS=mine\nHEADRACE_HOME=state\n")
    project.init("--template", "{product}")
    (project.root / "deep").mkdir()
    monkeypatch.chdir(project.root / "deep")

    assert (project.root / "mine/products.yaml").is_file()
    assert project.call("preview", "products").exit_code == 0


def test_a_relative_home_that_dagster_would_not_take_is_refused_with_its_line(project: Project) -> None:
    (project.root / ".env").write_text("# here\nDAGSTER_HOME=dagster_home\n")
    with pytest.raises(InvalidInput, match=r"\.env:2: DAGSTER_HOME must be an absolute path.*got 'dagster_home'\."):
        find_project(project.root, {}).check_dagster_home()


def test_a_relative_place_in_the_environment_starts_where_the_command_is_called(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For what Dagster starts, too, whose working directory is the project's."""
    (project.root / "deep").mkdir()
    monkeypatch.chdir(project.root / "deep")

    found = find_project(
        Path.cwd(), {"HEADRACE_HOME": "st", "DAGSTER_HOME": "../instance", "HEADRACE_STORE": "s3://b/p"}
    )

    assert found.environment["HEADRACE_HOME"] == str(project.root / "deep/st")
    assert Path(found.environment["DAGSTER_HOME"]).resolve() == (project.root / "instance").resolve()
    assert found.environment["HEADRACE_STORE"] == "s3://b/p"
    assert str(found.settings().home) == found.environment["HEADRACE_HOME"]
