"""The reference has every key, command, variable, tag, metric and store object of the code, and is what is kept."""

import json
import re
import tomllib

import pytest

from headrace.engines.host.metrics import page as host_metrics
from headrace.engines.host.table_view import Table
from headrace.serving.gateway.metrics import Metrics
from pipelines.jobs import COLLECTION, GENERATION_WITH_MEDIA, JOBS, REGENERATION
from pipelines.reference.constants import constants, sources
from pipelines.reference.markdown import prose
from pipelines.reference.metrics import metrics_page
from pipelines.reference.pages import DIRECTORY, pages
from pipelines.reference.store_objects import others, stored
from pipelines.reference.tags import PATTERN as TAGS
from pipelines.reference.variables import PATTERN as VARIABLES
from tests.command_line.builders import objects_of
from tests.docs.blocks import CHECKOUT


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return pages()


@pytest.fixture(scope="module")
def code() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in sources())


def test_the_kept_pages_are_what_the_code_says(made: dict[str, str]) -> None:
    kept = {path.name: path.read_text(encoding="utf-8") for path in DIRECTORY.glob("*.md")}
    assert kept.keys() == made.keys(), "`make reference` renews them"
    for name, text in made.items():
        assert kept[name] == text, f"{name}: `make reference` renews it"


@pytest.mark.parametrize("kind", ["campaign", "corpus", "images", "recipe", "service"])
def test_every_key_of_a_file_has_its_row(kind: str, made: dict[str, str]) -> None:
    schema = json.loads((CHECKOUT / f"docs/schemas/{kind}.schema.json").read_text())
    rows = re.findall(r"^\| `(\w+)` \|(.*)$", made[f"{kind}.md"], re.MULTILINE)
    objects = list(objects_of(schema))
    assert len(objects) > 1 or kind == "recipe"
    for one in objects:
        for key, value in one["properties"].items():
            described = [row for name, row in rows if name == key]
            assert described, key
            if default := value.get("default"):
                assert any(json.dumps(default, ensure_ascii=False) in row for row in described), key
            if key in one.get("required", ()):
                assert any("**required**" in row for row in described), key
    assert [name for name, row in rows if row.split(" | ")[-1].strip(" |") == ""] == [], "a text below the field"
    # Not one row more than there are keys; what several kinds of engine share stands once.
    assert {name for name, _ in rows} == {key for one in objects for key in one["properties"]}


def test_every_field_of_a_commands_output_has_its_row(made: dict[str, str]) -> None:
    files = {path.name.partition(".")[0]: path for path in (CHECKOUT / "docs/schemas").glob("*.schema.json")}
    outputs = files.keys() - {"campaign", "corpus", "images", "recipe", "service"}
    assert len(outputs) > 5
    for kind in outputs:
        start = made["json.md"].index(f"\n## `{kind}`\n")
        for one in objects_of(json.loads(files[kind].read_text())):
            for field in one["properties"]:
                assert f"\n| `{field}` | " in made["json.md"][start:], f"{kind}: {field}"


def test_every_command_and_option_that_the_code_declares_is_there(made: dict[str, str]) -> None:
    page = made["commands.md"]
    files = [path for path in sources() if "command_line" in path.parts or path.stem.endswith("_command")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in files)
    options = set(re.findall(r'"(--[a-z][a-z-]+)"', code))
    assert len(options) > 15
    assert {one for one in options if f"`{one}`" not in page} == set()
    groups = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["entry-points"]
    own = set(re.findall(r"^add_command\(app, (\w+)\)$", code, re.MULTILINE)) - {"export_rows"}
    grouped = {"export", "handoff show", "rollout status", "versions diff", "model ls"}
    for name in own | grouped | groups["headrace.commands"].keys():
        assert f"\n## headrace {name}\n" in page


def test_every_variable_and_tag_that_the_code_names_is_there_and_has_a_text(made: dict[str, str], code: str) -> None:
    variables = set(re.findall(r'"(HEADRACE_[A-Z_]+)"', code))
    assert len(variables) > 20
    assert {one for one in variables if f"`{one}`" not in made["variables.md"]} == set()
    tags = set(re.findall(rf'"({TAGS})"', code))
    assert len(tags) > 20
    assert {one for one in tags if f"`{one}`" not in made["tags.md"]} == set()
    for page in ("variables.md", "tags.md"):
        assert not re.search(r"^\| `[^|]*\|\s*\|", made[page], re.MULTILINE), page


def test_a_constant_without_a_text_below_it_is_found() -> None:
    assert [one.value for one in constants(TAGS) if not one.text] == []
    assert any(one.value == "HEADRACE_GPUS" and "4xH100" in one.text for one in constants(VARIABLES))


def test_every_metric_of_a_gateway_is_there(code: str) -> None:
    page, metrics = metrics_page(), Metrics()
    metrics.refused(404)
    told = set(re.findall(r"^# HELP (headrace_gateway_\w+)", metrics.page().decode(), re.MULTILINE))
    watched = {f"headrace_gateway_{name}" for name in re.findall(r'metrics\.watch\(\s*"(\w+)"', code)}
    assert len(told) > 8
    assert len(watched) > 6
    assert {one for one in told | watched if f"`{one}`" not in page} == set()


def test_every_metric_of_an_engine_host_is_there() -> None:
    shown = metrics_page()
    told = set(
        re.findall(r"^# HELP (headrace_host_\w+)", host_metrics(Table(accounts=(), data=())).decode(), re.MULTILINE)
    )
    assert len(told) > 15
    assert {one for one in told if f"`{one}`" not in shown} == set()
    assert "| `headrace_host_model_state` | gauge | `model`, `key`, `place`, `state` |" in shown


def test_every_kind_of_small_object_is_there_and_lies_where_it_says(made: dict[str, str], code: str) -> None:
    nouns = set(re.findall(r'^[A-Z_]+ = Kind\(\s*(?:noun=)?"([^"]+)"', code, re.MULTILINE))
    assert len(nouns) > 15
    assert nouns == {one.kind.noun for one in stored()}
    for one in stored():
        assert f"\n### {one.kind.noun}\n\n`{one.key}`\n" in made["store.md"]
    keys = [one.key for one in stored()] + [key for key, _ in others()]
    assert len(set(keys)) == len(keys)


def test_every_job_schedule_sensor_and_check_is_there(made: dict[str, str], code: str) -> None:
    page = made["definitions.md"]
    names = {
        *JOBS,
        REGENERATION.name,
        GENERATION_WITH_MEDIA.name,
        COLLECTION.name,
        "nightly_campaigns",
        "follow_changed_inputs",
    }
    names |= set(re.findall(r"^@dg\.(?:run_failure_)?sensor\(.*?\)\ndef (\w+)\(", code, re.MULTILINE | re.DOTALL))
    assert len(names) > 15
    assert {name for name in names if f"`{name}`" not in page} == set()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a  b\n c", "a b c"),
        ("`H100|A100` or <b>", "<code>H100&#124;A100</code> or &lt;b&gt;"),
        ("*.yaml of [x] and _y_", r"\*.yaml of \[x\] and \_y\_"),
        ("at http://a.b/c, or `x_*`", "at `http://a.b/c`, or `x_*`"),
        ("a ` alone", "a &#96; alone"),
    ],
)
def test_a_text_of_the_code_looks_the_same_on_a_page(text: str, shown: str) -> None:
    assert prose(text) == shown
