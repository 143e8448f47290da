"""What each command prints with --json keeps to its published schema: on one store, with one instance beside it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import typer
from typer.testing import Result

from headrace.command_line.bodies.kinds import KINDS, body_of, kind_of
from headrace.command_line.main import app
from headrace.command_line.schema import FILES
from headrace.generation.review import review_rows
from headrace.registry.model_versions import to_table
from headrace.version_sets.sets import VersionSets
from headrace_dagster.queue_views.queue_view import FIVE_LINES
from simulation.models import model_of
from tests.command_line.builders import CHECKOUT, checked_json, make_store, objects_of, run
from tests.generation.builders import make_site, make_version_set
from tests.headrace_dagster.queue_builders import make_run

# Command → its arguments and exit code, in an order that the rollout allows. Words in braces are the store's.
CALLS: dict[str, tuple[str, int]] = {
    "doctor": ("", 0),
    "handoff ls": ("", 0),
    "handoff show": ("raw_documents shard-00 -n 2", 0),
    "handoff verify": ("", 0),
    "handoff diff": ("raw_documents shard-00 v1 v2 --key document_id", 1),
    "handoff gc": ("--dry-run --without-dagster --without-mlflow", 0),
    "gc": ("--yes --grace 0 --keep 1 --without-dagster --without-mlflow", 0),
    "model ls": ("", 0),
    "versions ls": ("", 0),
    "versions show": ("{set}", 0),
    "versions diff": ("glossary:stable glossary:candidate", 1),
    "trace": ("{row}", 0),
    "status": ("", 0),
    "queue": ("", 0),
    "why": ("aaaa", 0),
    "rollout status": ("glossary", 0),
    "rollout journal": ("glossary", 0),
    "rollout verify": ("", 0),
    "rollout pause": ("glossary --by me", 0),
    "rollout resume": ("glossary --by me", 0),
    "rollout approve": ("glossary --by me", 0),
    "rollout advance": ("glossary --weight 0.5 --by me", 0),
    "rollout abort": ("glossary --by me --reason worse --yes", 0),
    "rollout rows": ("glossary --ids", 0),
    "rollout start": ("glossary --set {new} --by me", 0),
}
# They need more than a store; their own tests check what they print.
ELSEWHERE = {
    "check": "tests/command_line/checked_project.py",
    "dropped": "tests/command_line/test_dropped.py",
    "erase": "tests/command_line/test_erase.py",
    "inbox refused": "tests/serving/gateway/test_inbox_nats.py",
    "inbox status": "tests/command_line/test_inbox.py",
    "inbox undelivered": "tests/serving/gateway/test_inbox_webhook.py",
    "labels import": "tests/command_line/test_labels.py",
    "model index": "tests/command_line/test_models.py",
    "model loaded": "tests/command_line/test_model_loaded.py",
    "model show": "tests/command_line/test_models.py",
    "preview": "tests/command_line/test_own_campaigns.py",
    "run": "tests/processes/test_campaign_run.py",
}


class Everything:
    def __init__(self, root: Path) -> None:
        self.store, home = root / "store", root / "home"
        make_store(self.store)
        site = make_site(self.store)
        made = site.generate()
        review = review_rows(made.content.table(), site.campaign.review)
        site.handoffs.publish("reviewed_content", site.partition.key, review.table, code_version="1", run_id="r")
        site.handoffs.publish(
            "registered_version", "tiny.r", to_table([model_of("tiny", 1)]), code_version="1", run_id="r"
        )
        site.start(2, weight=0.1)
        new = VersionSets(site.objects).put(make_version_set(3))
        self.names = {"{row}": str(site.content_rows()[0]["row_id"]), "{set}": site.state.stable, "{new}": new}
        home.mkdir()
        (home / "dagster.yaml").write_text(FIVE_LINES + "\ntelemetry: {enabled: false}\n")
        with dg.DagsterInstance.from_config(str(home)) as instance:
            tags = {"dagster/partition": site.partition.key}
            for beginning, status in (("aaaa0000", "QUEUED"), ("bbbb0000", "FAILURE")):
                known = make_run(beginning, job_name="generate", status=dg.DagsterRunStatus(status), tags=tags)
                instance.run_storage.add_run(known)
        self.env = {"DAGSTER_HOME": str(home), "HEADRACE_GPUS": "1xH100:81559"}

    def call(self, command: str, arguments: str) -> Result:
        words = [self.names.get(word, word) for word in arguments.split()]
        return run(*command.split(), *words, "--json", store=self.store, env=self.env)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Everything:
    return Everything(tmp_path_factory.mktemp("everything"))


@pytest.mark.parametrize("command", CALLS)
def test_what_is_printed_keeps_to_its_schema(everything: Everything, command: str) -> None:
    arguments, exit_code = CALLS[command]
    assert checked_json(everything.call(command, arguments), kind_of(command), exit_code=exit_code)


def with_json(command: Any, words: str = "") -> Iterator[str]:
    if hasattr(command, "list_commands"):
        context = command.context_class(command)
        for name in command.list_commands(context):
            yield from with_json(command.get_command(context, name), f"{words} {name}".strip())
    elif any("--json" in parameter.opts for parameter in command.params):
        yield words


def test_every_command_with_json_has_a_schema_and_is_called_here_or_where_it_says() -> None:
    commands = set(with_json(typer.main.get_command(app)))

    assert commands == CALLS.keys() | ELSEWHERE.keys()
    # Called in test_own_campaigns.py; and of a command that prints nothing else, in test_inbox.py.
    assert {kind_of(command) for command in commands} | {"run-dry-run", "inbox-results"} == set(KINDS)
    for command, file in ELSEWHERE.items():
        assert f"{kind_of(command)}.schema.json" in (text := (CHECKOUT / file).read_text()) or (
            f'"{kind_of(command)}")' in text
        )


@pytest.mark.parametrize("kind", KINDS)
def test_a_schema_of_output_refuses_a_key_that_it_does_not_name(kind: str) -> None:
    schema = json.loads((CHECKOUT / f"docs/schemas/{kind}.schema.json").read_text())
    assert list(objects_of(schema))
    assert all(one["additionalProperties"] is False for one in objects_of(schema))
    assert set(schema["properties"]) == set(body_of(kind).__dataclass_fields__)


def test_without_a_kind_all_are_listed_and_an_unknown_one_is_refused() -> None:
    assert run("schema").stdout.split() == [*FILES, *KINDS]
    refused = run("schema", "campain")
    told = "Error: There is no schema 'campain'. Did you mean campaign?\n"
    assert (refused.exit_code, refused.stderr) == (2, told)
