"""`headrace init`: which engines it takes, where the file goes, what it refuses in one sentence without leftovers."""

import json
import os
import re
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from headrace.engines.roles import Role
from headrace.generation.campaign import load_campaign
from tests.command_line.builders import start
from tests.command_line.own_project import Project

TEMPLATE = ("--template", "A tagline for {product}.")


def writer_of(project: Project) -> Role:
    [file] = project.campaigns.glob("*.yaml")
    return load_campaign(file).parts["writer"]


@pytest.mark.parametrize(
    ("models", "flags", "named"),
    [
        (["mini"], [], "mini"),
        (["mini", "maxi"], ["--model", "maxi"], "maxi"),
        (["mini", "maxi"], [], "serves mini, maxi: pass --model NAME."),
        (["mini"], ["--model", "nosuch"], "serves mini, got --model nosuch"),
        ([], ["--model", "qwen"], "qwen"),
        ([], [], "serves no model"),
    ],
)
def test_a_servers_model_is_one_that_it_serves(
    project: Project, models: list[str], flags: list[str], named: str
) -> None:
    class Models(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/v1/models" else 404)
            self.end_headers()
            self.wfile.write(json.dumps({"data": [{"id": one} for one in models]}).encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the library's name)
            pass

    with HTTPServer(("127.0.0.1", 0), Models) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        result = project.init("--template", "{product}", *flags, engine=url)
        server.shutdown()
    if result.exit_code:
        assert named in result.output
    else:
        [file] = project.campaigns.glob("*.yaml")
        assert load_campaign(file).parts["writer"].engine.options.model == named


@pytest.mark.parametrize(
    ("engine", "told"),
    [
        ("/nowhere", "--engine must be echo, bundled, a server's URL .*got '/nowhere', which is none of these"),
        ("nosuchmodel", "a model directory or a hub name \\(OWNER/NAME\\), got 'nosuchmodel'"),
        ("localhost:8000/v1", "got 'localhost:8000/v1'"),
        ("m" * 5000, "got 'm{199}…'"),
        ("empty", "--engine must be a model directory, got .*/empty, which has no config.json"),
        ("HTTP://", "--engine: base_url must be an address such as .*, got 'HTTP://'"),
        ("http://me:secret@127.0.0.1:9/v1", r"http://127\.0\.0\.1:9/v1/models does not say which models there are"),
    ],
)
def test_an_engine_that_cannot_be_is_refused_at_once(project: Project, engine: str, told: str) -> None:
    (project.root / "empty").mkdir()

    result = project.init(*TEMPLATE, engine=engine)

    assert result.exit_code == 2
    assert len(result.output.strip().splitlines()) == 1
    assert re.search(told, result.output)
    assert "secret" not in result.output
    assert not project.campaigns.exists()


def test_a_model_is_named_for_a_server_alone(project: Project) -> None:
    result = project.init(*TEMPLATE, "--model", "mini")

    assert (result.exit_code, result.stderr) == (
        2,
        "Error: --model goes with a server's URL, got 'mini' with --engine echo.\n",
    )


def test_a_scheme_in_capitals_is_a_servers_too(project: Project) -> None:
    assert project.init(*TEMPLATE, "--model", "mini", engine="HTTP://127.0.0.1:9/v1").exit_code == 0
    assert writer_of(project).engine.options.base_url == "http://127.0.0.1:9/v1"


def test_a_hub_name_is_taken_as_it_is(project: Project) -> None:
    assert project.init(*TEMPLATE, engine="HuggingFaceTB/SmolLM2-135M-Instruct").exit_code == 0
    assert writer_of(project).weights == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_a_model_directory_from_here_is_written_so_that_it_is_found_from_everywhere(project: Project) -> None:
    (project.root / "mine").mkdir()
    (project.root / "mine/config.json").write_text("{}")

    assert project.init(*TEMPLATE, engine="./mine").exit_code == 0
    assert writer_of(project).weights == str(project.root / "mine")


@pytest.mark.parametrize(
    ("prompts", "told"),
    [
        ("resources", "--prompts must be a file, got resources, which is a directory."),
        ("pipe", "--prompts must be a file, got pipe, which is a pipe or a device."),
        ("products.csv/x", "--prompts must be a file, got products.csv/x, which does not exist."),
        ("p" * 5000, f"--prompts must be a file, got {'p' * 199}…, which cannot be read: File name too long."),
    ],
)
def test_prompts_that_are_no_file_are_said_to_be_what_they_are(project: Project, prompts: str, told: str) -> None:
    (project.root / "resources").mkdir()
    os.mkfifo(project.root / "pipe")

    result = project.init(prompts=prompts)

    assert (result.exit_code, result.stderr) == (2, f"Error: {told}\n")


def test_a_fault_in_what_was_asked_for_has_no_place_in_a_file_that_nobody_sees(project: Project) -> None:
    result = project.init("--template", "the same for all")

    assert result.exit_code == 2
    assert result.stderr.startswith("Error: What was asked for: prompts: template must name a column in braces")


@pytest.mark.parametrize("flag", ["--prompts", "--template", "--engine", "--model"])
def test_what_is_typed_is_utf_8_as_the_file_is(project: Project, flag: str) -> None:
    odd = "\udcff{product}.csv"  # a byte 0xff, as Python takes it from a command line
    (project.root / odd).write_text("product\nkettle\n")
    typed = {"--prompts": "products.csv", "--template": "{product}", "--engine": "http://127.0.0.1:9/v1"}

    result = project.call("init", *(word for pair in ({**typed, flag: odd}).items() for word in pair))

    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith(f"Error: {flag} must be text in UTF-8, got '")
    assert not project.campaigns.exists()


@contextmanager
def little_room() -> Iterator[None]:
    """No file may grow beyond 64 bytes: the system refuses the write, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_takes_no_more_is_a_sentence_and_costs_no_file_that_was_there(project: Project) -> None:
    project.init(*TEMPLATE)
    before = project.lines

    with little_room():
        result = project.init(*TEMPLATE, "--force")

    told = f"Error: Cannot write {project.campaigns}/products.yaml: File too large. Nothing of it is left.\n"
    assert (result.exit_code, result.stderr) == (2, told)
    assert project.lines == before
    assert [one.name for one in project.campaigns.iterdir()] == ["products.yaml"]


def test_a_directory_in_the_files_place_is_not_replaced(project: Project) -> None:
    (project.campaigns / "products.yaml").mkdir(parents=True)

    result = project.init(*TEMPLATE, "--force")

    assert result.exit_code == 2
    assert result.stderr.endswith("products.yaml is there already: choose another --name.\n")
    assert [one.name for one in project.campaigns.iterdir()] == ["products.yaml"]


def test_a_name_that_another_file_has_is_not_taken_from_it(project: Project) -> None:
    project.init(*TEMPLATE)
    (project.campaigns / "products.yaml").rename(project.campaigns / "renamed.yaml")

    result = project.init(*TEMPLATE, "--force")

    assert result.exit_code == 2
    assert result.stderr.endswith("renamed.yaml describes a campaign 'products' already: choose another --name.\n")
    assert project.call("preview", "products").exit_code == 0


def test_a_file_in_the_directorys_place_is_told(project: Project) -> None:
    result = project.init("products.csv", *TEMPLATE)

    assert result.exit_code == 2
    assert result.stderr == "Error: Cannot write products.csv/products.yaml: Not a directory. Nothing of it is left.\n"


def test_where_run_does_not_look_the_next_steps_say_what_does(project: Project) -> None:
    lines = project.init("else where", *TEMPLATE).stdout.splitlines()

    file = "else where/products.yaml"
    assert lines[2].startswith(f"  headrace preview '{file}'  ")
    assert lines[3] == (
        f"headrace run takes the campaigns in {project.campaigns} alone: move the file there, or set "
        f"HEADRACE_CAMPAIGNS to {project.root}/else where."
    )
    assert project.call("preview", file).exit_code == 0


def test_outside_a_project_only_the_preview_is_promised(project: Project) -> None:
    (project.root / "pyproject.toml").unlink()

    lines = project.init(*TEMPLATE).stdout.splitlines()

    assert [line for line in lines if "headrace run" in line] == [
        "headrace run needs a Dagster project: move the file to the campaigns of one, and call it there."
    ]
    assert project.call("preview", project.root / "products.yaml").exit_code == 0


def test_the_projects_directory_is_known_however_it_is_spelt(project: Project) -> None:
    project.campaigns.mkdir(parents=True)

    result = project.init("resources/../resources/campaigns", *TEMPLATE)

    assert "headrace run products " in result.stdout


def test_prompts_of_a_day_make_a_campaign_that_is_not_named_as_the_day(project: Project) -> None:
    (project.root / "2026-11-29.csv").write_text("product\nkettle\n")

    assert "campaign-2026-11-29.yaml: " in project.init(*TEMPLATE, prompts="2026-11-29.csv").stdout
    refused = project.init(*TEMPLATE, "--name", "2026-11-29")

    assert (refused.exit_code, refused.stderr) == (
        2,
        "Error: --name must not have a day's form, since commands would take it for the day, got '2026-11-29'. Take "
        "another, such as campaign-2026-11-29.\n",
    )


def test_a_file_name_with_signs_is_that_file_and_no_pattern(project: Project) -> None:
    name = "q[1] {day} $HOME %a% *.csv"
    (project.root / name).write_text("product\nkettle\n")
    (project.root / "q1 2026-11-22 $HOME %a% b.csv").write_text("product\nlamp\n")

    assert "1 prompt in its first shard" in project.init(*TEMPLATE, "--name", "odd", prompts=name).stdout
    body = json.loads(project.call("preview", "odd", "--day", "2026-11-22", "--json").stdout)
    assert [row["prompt"] for row in body["rows"]] == ["A tagline for kettle."]


def test_what_no_option_says_is_asked_on_a_terminal_and_quotes_around_a_file_are_not_its_name(
    project: Project,
) -> None:
    (project.root / "products.csv").rename(project.root / "my products.csv")
    terminal, typed = os.openpty()
    os.write(terminal, b"'my products.csv' \nA tagline for {product}.\n echo\n")

    process = start("init", cwd=project.root, stdin=typed, env={"HEADRACE_CAMPAIGNS": ""})
    output, errors = process.communicate(timeout=60)
    os.close(terminal)
    os.close(typed)

    assert process.returncode == 0, errors
    assert "my-products.yaml: 9 lines, 3 prompts in its first shard." in output
    assert "columns in one pair of braces ({product}, {section})" in errors
    assert writer_of(project).engine.name == "echo"
