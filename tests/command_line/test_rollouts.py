"""`headrace rollout` and `headrace versions`, each command on a real store."""

import json
import os
import pty
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from headrace.clock import SystemClock
from headrace.handoff.versions import HandoffStore
from headrace.registry.model_versions import ModelVersion, to_table
from headrace.registry.registered import REGISTERED_VERSION
from headrace.rollout.journal import Journal
from headrace.rollout.states import RolloutState, fold
from headrace.store.local import LocalStore
from headrace.version_sets.sets import VersionSets
from simulation.models import model_of
from tests.command_line.builders import run, start
from tests.generation.builders import make_site
from tests.rollout.scenes import Scene, make_long_scene

SERVICE = """
name: support
roles:
  writer:
    model: tiny
    decoding: {temperature: 0.7, top_p: 0.9, max_new_tokens: 160}
    engine: {name: echo}
chain: [writer]
rollout:
  steps:
    - {weight: 0.1, cap: 500}
    - {weight: 0.5, approval: true}
"""

CAMPAIGN = """
name: glossary
model: tiny
num_shards: 4
prompts: {files: prompts.jsonl, per_shard: 6}
decoding: {temperature: 0.7, top_p: 0.9, max_new_tokens: 12}
engine: {name: echo}
rollout: {steps: [0.1, 0.5]}
"""


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "store")


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    file = tmp_path / "support.yaml"
    file.write_text(SERVICE)
    return file


def rollout(scene: Scene, *arguments: str | Path) -> Result:
    return run("rollout", *arguments, store=scene.store.directory)


def versions(scene: Scene, *arguments: str | Path) -> Result:
    return run("versions", *arguments, store=scene.store.directory)


def done(result: Result) -> str:
    assert result.exit_code == 0, result.stderr
    return result.stdout


def state_of(scene: Scene) -> RolloutState:
    state = fold(Journal(scene.store, scene.name, scene.clock).entries())
    assert state is not None
    return state


def newest(scene: Scene) -> dict[str, Any]:
    entry = Journal(scene.store, scene.name, scene.clock).entries()[-1]
    return {"event": entry.event, **entry.fields}


def test_a_set_goes_from_proposal_to_stable_by_commands_alone(scene: Scene, plan: Path) -> None:
    two = scene.sets[2].id
    said = done(rollout(scene, "start", "support", "--set", two[:8], "-m", "a try", "--by", "ana"))
    assert "Entry 2 of support: proposed, by ana." in said
    assert "is being prepared" in said
    scene.journal.entries()
    scene.prepare(scene.journal.entries()[-1])
    assert "gets 10% of the units" in done(rollout(scene, "start", "support", "--set", two[:8], "--plan", plan))
    assert (newest(scene)["cap"], newest(scene)["prepared_by"]) == (500, ["gateway-a"])
    assert "gets 50% of the units" in done(rollout(scene, "advance", "support", "--plan", plan))
    assert done(rollout(scene, "approve", "support", "-m", "read 50 answers"))
    assert "is stable and gets every unit" in done(rollout(scene, "advance", "support", "--promote", "--plan", plan))
    assert state_of(scene).stable == two


def test_a_candidate_is_paused_resumed_and_weighed_by_hand(scene: Scene) -> None:
    scene.start(2)
    assert ", paused." in done(rollout(scene, "pause", "support", "-m", "lunch", "--by", "ana"))
    assert newest(scene)["reason"] == "lunch"
    done(rollout(scene, "resume", "support"))
    assert newest(scene)["reason"] == "by hand, no reason given"
    assert newest(scene)["by"]
    assert "gets 2.5% of the units" in done(rollout(scene, "advance", "support", "--weight", "2.5%"))
    assert "gets 75% of the units" in done(rollout(scene, "advance", "support", "--weight", "0.75"))


def test_an_abort_moves_sessions_or_keeps_them(scene: Scene) -> None:
    scene.start(2)
    assert "was rolled back" in done(rollout(scene, "abort", "support", "--reason", "rude"))
    assert state_of(scene).evicted == {scene.sets[2].id}
    scene.start(3)
    done(rollout(scene, "abort", "support", "-m", "slow", "--keep-sessions", "--yes"))
    assert state_of(scene).evicted == {scene.sets[2].id}
    assert state_of(scene).aborted == {scene.sets[2].id, scene.sets[3].id}


def test_an_abort_withdraws_what_is_only_proposed(scene: Scene) -> None:
    scene.add("proposed", 2)
    assert "was withdrawn" in done(rollout(scene, "abort", "support", "-m", "too large"))


def test_the_set_before_a_promotion_can_be_started_by_its_standing(scene: Scene) -> None:
    scene.promote(2)
    done(rollout(scene, "start", "support", "--set", "support:previous", "-m", "back"))
    assert state_of(scene).proposed == scene.sets[1].id


def test_changes_are_printed_as_json(scene: Scene) -> None:
    scene.start(2)
    body = json.loads(done(rollout(scene, "pause", "support", "--by", "ana", "--json")))
    assert (body["entry"]["event"], body["entry"]["by"], body["status"]["paused"]) == ("paused", "ana", True)


def test_the_status_of_all_rollouts_is_a_line_each(tmp_path: Path) -> None:
    scene = make_long_scene(tmp_path)
    Scene(tmp_path, "glossary")
    lines = done(rollout(scene, "status")).splitlines()
    assert lines[0].split() == ["ROLLOUT", "STABLE", "CANDIDATE", "STEP", "WEIGHT", "SINCE", "CAP", "USED", "LAST"]
    four, two = (scene.sets[number].id[:8] for number in (4, 2))
    assert lines[1].startswith("glossary")
    assert f"{two} writer=tiny:2" in lines[2]
    assert f"{four} writer=tiny:4" in lines[2]
    assert "25%" in lines[2]
    assert "884 of 2,000" in lines[2]
    assert "13 advanced by controller: advanced" in lines[2]
    body = json.loads(done(rollout(scene, "status", "--json")))
    assert [one["name"] for one in body["rollouts"]] == ["glossary", "support"]


def test_the_status_of_one_rollout_says_it_all(tmp_path: Path) -> None:
    scene = make_long_scene(tmp_path)
    said = done(rollout(scene, "status", "support"))
    assert "writer=tiny:4" in said.splitlines()[1]
    assert "gateway-a  yes       14.2  judge, writer" in said
    assert "writer.decoding.temperature" in said
    body = json.loads(done(rollout(scene, "status", "support", "--json")))["rollouts"][0]
    assert (body["weight"], body["cap"], body["num_units"], body["step"]) == (0.25, 2000, 884, 1)


def test_drift_is_shown_and_a_registry_that_is_down_is_no_failure(scene: Scene, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    said = done(rollout(scene, "status", "--mlflow", f"sqlite:///{tmp_path}/mlflow.db"))
    assert "champion of tiny is unset, the journal says 1" in said
    said = done(rollout(scene, "status", "support", "--mlflow", "http://127.0.0.1:1"))
    assert "unknown: " in said
    assert "is stable and gets every unit" in said


def test_the_journal_is_listed_with_who_and_why(tmp_path: Path) -> None:
    scene = make_long_scene(tmp_path)
    lines = done(rollout(scene, "journal", "support")).splitlines()
    assert len(lines) == 1 + scene.journal.head()
    assert "paused" in lines[4]
    assert "ana" in lines[4]
    assert scene.journal.entries()[3].digest[:12] in lines[4]
    body = json.loads(done(rollout(scene, "journal", "support", "--json")))
    assert [entry["number"] for entry in body["entries"]] == list(range(1, scene.journal.head() + 1))


def test_a_whole_journal_is_verified(tmp_path: Path) -> None:
    scene = make_long_scene(tmp_path)
    assert done(rollout(scene, "verify")) == "support: 13 entries and 4 version sets are whole.\n"
    body = json.loads(done(rollout(scene, "verify", "support", "--json")))
    assert body["rollouts"] == [{"name": "support", "num_entries": 13, "num_sets": 4, "error": None}]


def drop_an_entry(scene: Scene) -> None:
    (scene.store.directory / "rollout/support/journal/00000005.json").unlink()


def drop_a_set(scene: Scene) -> None:
    (scene.store.directory / f"version_sets/{scene.sets[3].id}.json").unlink()


def change_a_set(scene: Scene) -> None:
    file = scene.store.directory / f"version_sets/{scene.sets[3].id}.json"
    file.chmod(0o644)
    file.write_text(file.read_text().replace("0.4", "0.9"))


def copy_an_entry(scene: Scene) -> None:
    directory = scene.store.directory / "rollout/support/journal"
    (directory / "00000014.json").write_bytes((directory / "00000013.json").read_bytes())


def write_beside(scene: Scene) -> None:
    (scene.store.directory / "rollout/support/journal/note.txt").write_text("hello")


TAMPERINGS = {
    "an edited entry": (lambda scene: scene.edit(6, weight=0.9), "00000006.json is damaged"),
    "an entry that is gone": (drop_an_entry, "Entry 5 is missing, though number 13 was made"),
    "an entry twice": (copy_an_entry, "00000014.json is damaged"),
    "a foreign file": (write_beside, "objects that no append made: note.txt"),
    "a set that is gone": (drop_a_set, "Entry 8 (proposed) names a set that is damaged: Version set"),
    "a set that was changed": (change_a_set, "its content under this key has sha256"),
}


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_what_was_tampered_with_is_found(tampering: str, tmp_path: Path) -> None:
    scene = make_long_scene(tmp_path)
    Scene(tmp_path, "whole")
    tamper, message = TAMPERINGS[tampering]
    tamper(scene)
    result = rollout(scene, "verify")
    assert result.exit_code == 1
    assert message in result.stdout
    assert "whole: 1 entry and 1 version set are whole." in result.stdout
    assert json.loads(rollout(scene, "verify", "support", "--json").stdout)["rollouts"][0]["error"]


def test_one_damaged_journal_does_not_hide_the_others(tmp_path: Path) -> None:
    scene = make_long_scene(tmp_path)
    Scene(tmp_path, "whole")
    scene.edit(6, weight=0.9)
    result = rollout(scene, "status")
    assert result.exit_code == 1
    assert "support cannot be read: Journal support cannot be believed. Entry " in result.stdout
    assert "\nwhole" in result.stdout
    assert rollout(scene, "pause", "support").exit_code == 2


def test_the_page_is_written(tmp_path: Path) -> None:
    scene = make_long_scene(tmp_path / "store")
    file = tmp_path / "page.html"
    assert done(rollout(scene, "page", "support", "-o", file)) == f"{file}\n"
    assert "gets 25% of the units beside" in file.read_text()
    refused = rollout(scene, "page", "support", "-o", "/dev/null")
    assert (refused.exit_code, "/dev/null is a device, and only a file is ever" in refused.stderr) == (2, True)


def test_a_rollout_without_a_rollback_has_no_bad_rows(scene: Scene) -> None:
    assert done(rollout(scene, "rows", "support")) == "No set of support was ever rolled back.\n"
    scene.abort(2)
    assert "0 rows of 1 set that went back; readers still get 0 of them" in done(rollout(scene, "rows", "support"))


def test_rows_of_a_rolled_back_set_are_named_until_they_are_made_again(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    site.generate()
    bad = site.start(2)
    site.generate(site.open_claim("run-2", regenerate="current_set"))
    site.abort(2)
    partition = site.partition.key
    result = run("rollout", "rows", "glossary", store=tmp_path)
    assert result.exit_code == 1
    assert f"{bad[:12]}  {partition}  v2          7  to make again" in result.stdout
    assert "7 rows of 1 set that went back; readers still get 7 of them, in 1 partition." in result.stdout
    ids = run("rollout", "rows", "glossary", bad[:8], "--ids", store=tmp_path).stdout.split()
    assert sorted(ids) == sorted(row["row_id"] for row in site.content_rows())
    assert "to make again" in render(tmp_path, "glossary")
    site.generate(site.open_claim("run-3", regenerate="current_set"))
    result = run("rollout", "rows", "glossary", "--json", store=tmp_path)
    assert result.exit_code == 0
    assert [one["is_published"] for one in json.loads(result.stdout)["versions"]] == [False]


def render(store: Path, name: str) -> str:
    file = store / "page.html"
    assert run("rollout", "page", name, "-o", file, store=store).exit_code == 0
    return file.read_text()


def test_the_gate_is_asked_where_the_campaigns_file_is_given(tmp_path: Path) -> None:
    site = make_site(tmp_path / "store", clock=SystemClock())
    site.start(2, weight=0.1)
    file = tmp_path / "glossary.yaml"
    file.write_text(CAMPAIGN)
    said = run("rollout", "status", "glossary", "--plan", file, store=tmp_path / "store").stdout
    assert "step       1 of 2" in said
    assert "gate       wait: 0 of 10 rows in this step" in said


def test_sets_are_listed_with_their_standing(tmp_path: Path) -> None:
    scene = make_long_scene(tmp_path)
    said = done(versions(scene, "ls"))
    for number, standing in ((1, "retired"), (2, "stable"), (3, "rolled back"), (4, "candidate")):
        line = next(line for line in said.splitlines() if line.startswith(scene.sets[number].id[:12]))
        assert line.endswith(f"{standing} in support")
    body = json.loads(done(versions(scene, "ls", "--json")))
    assert len(body["version_sets"]) == 4


def test_a_set_is_shown_whole(scene: Scene) -> None:
    said = done(versions(scene, "show", "support:stable"))
    assert scene.sets[1].id in said
    assert "tiny version 1" in said
    assert "temperature 0.7, top_p 0.9, at most 160 tokens" in said
    body = json.loads(done(versions(scene, "show", scene.sets[3].id[:6], "--json")))
    assert body["id"] == scene.sets[3].id


def test_two_sets_are_compared_by_id_prefix_and_standing(tmp_path: Path) -> None:
    scene = make_long_scene(tmp_path)
    result = versions(scene, "diff", "support:stable", scene.sets[4].id[:10])
    assert result.exit_code == 1
    assert "writer.decoding.temperature  0.7" in result.stdout
    body = json.loads(versions(scene, "diff", "support:stable", "support:candidate", "--json").stdout)
    assert {"path": "writer.model_version", "before": "2", "after": "4"} in body["differences"]
    same = versions(scene, "diff", "support:stable", "support:stable")
    assert (same.exit_code, same.stdout[:8]) == (0, "Both are")


MISTAKES = {
    "a misspelled rollout": ("rollout status suport", "Did you mean support?"),
    "a rollout that is like none": ("rollout pause zzz", "There are: support."),
    "an abort without a reason": ("rollout abort support", "--reason"),
    "nothing to pause": ("rollout pause support", "There is no candidate to pause: set"),
    "nothing to abort": ("rollout abort support -m x", "There is no candidate to abort"),
    "nothing to promote": ("rollout advance support --promote", "There is no candidate to promote"),
    "no plan and no weight": ("rollout advance support", "pass --plan FILE, or --weight W"),
    "a weight that is none": ("rollout advance support --weight half", "such as 0.1 or 10%, got 'half'"),
    "a weight above all": ("rollout advance support --weight 150%", "such as 0.1 or 10%, got '150%'"),
    "a weight and a promotion": ("rollout advance support --weight 1 --promote", "drop one"),
    "a plan without a rollout": ("rollout status --plan x.yaml", "name the rollout too"),
    "a plan that is not there": ("rollout advance support --plan {tmp}/none.yaml", "none.yaml does not exist."),
    "another's plan": (
        "rollout advance support --plan {tmp}/other.yaml",
        "describes 'other', the rollout is",
    ),
    "an unknown set": ("rollout start support --set abcdef", "begins with 'abcdef'. `headrace versions ls` shows them"),
    "a set that is none": ("versions show no-such", "NAME:previous, got 'no-such'"),
    "too little of an id": ("versions show abc", "its first 4 or more characters"),
    "a standing that is none": ("versions show support:stabel", "Did you mean stable?"),
    "a standing nobody has": ("versions show support:candidate", "Rollout support has no candidate set now"),
    "a rollout's misspelled standing": ("versions diff suport:stable support:stable", "Did you mean support?"),
    "the stable set again": ("rollout start support --set support:stable", "is the stable one already"),
    "rows of a set that did not go back": ("rollout rows support support:stable", "was not rolled back in support"),
    "no store": ("rollout status --store {tmp}/nowhere", "There is no store at {tmp}/nowhere"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_in_a_sentence(mistake: str, scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(SERVICE.replace("name: support", "name: other"))
    typed, wanted = (text.replace("{tmp}", str(tmp_path)) for text in MISTAKES[mistake])
    result = run(*typed.split(), store=scene.store.directory)
    assert wanted in result.stderr
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Traceback" not in result.stderr
    assert scene.journal.head() == 1


def test_a_proposal_that_is_not_prepared_gets_no_units(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "support.yaml").write_text(SERVICE)
    scene.add("proposed", 2)
    start = ("start", "support", "--set", scene.sets[2].id, "--weight", "10%")
    without_plan = rollout(scene, *start)
    assert "pass --plan FILE: it says how many nodes must have prepared the set" in without_plan.stderr
    with_plan = rollout(scene, *start, "--plan", tmp_path / "support.yaml")
    assert (without_plan.exit_code, with_plan.exit_code, state_of(scene).candidate) == (2, 2, None)
    assert "nodes have prepared set" in with_plan.stderr


def test_a_set_is_shown_with_its_chain_and_its_engines_options(scene: Scene) -> None:
    first = scene.sets[1]
    engine = replace(first.engine, options='{"volume":2}', template_date="2026-11-01")
    changed = replace(first, engine=engine, chain=("writer", "judge"))
    VersionSets(scene.store).put(changed)
    said = done(versions(scene, "show", changed.id))
    assert "writer, judge" in said
    assert 'template_date 2026-11-01, options {"volume":2}' in said
    said = versions(scene, "diff", first.id, changed.id).stdout
    assert "writer, judge" in said


def test_a_prefix_of_two_sets_names_both(scene: Scene) -> None:
    twin = scene.sets[1].id[:4] + "0" * 60
    (scene.store.directory / f"version_sets/{twin}.json").write_bytes(b"{}")
    result = versions(scene, "show", scene.sets[1].id[:4])
    assert result.exit_code == 2
    assert "2 version sets begin with" in result.stderr
    assert f"{twin[:16]} (cannot be read)" in result.stderr
    assert f"{scene.sets[1].id[:16]} (judge=referee:1, writer=tiny:1)" in result.stderr


def test_an_empty_store_says_so(tmp_path: Path) -> None:
    assert "There is no rollout in" in run("rollout", "status", store=tmp_path).stdout
    assert "There is no rollout in" in run("rollout", "verify", store=tmp_path).stdout
    assert "No version set is kept in" in run("versions", "ls", store=tmp_path).stdout
    assert "Materialize rollout, or pass --store" in run("rollout", "pause", "a", store=tmp_path).stderr


def test_a_service_without_dagster_is_ticked_from_nothing_to_a_proposal_and_on(tmp_path: Path) -> None:
    """A server's own model, which no registry knows: the file alone makes the first set, and the next."""
    file, store = tmp_path / "helper.yaml", tmp_path / "store"
    store.mkdir()
    role = "{model: vendor, version: VERSION, registered: false, engine: {name: echo}, decoding: DECODING}"
    decoding = "{temperature: 0, top_p: 1, max_new_tokens: 8}"
    text = f"name: helper\nchain: [writer]\nroles:\n  writer: {role}\n".replace("DECODING", decoding)
    file.write_text(text.replace("VERSION", "'1'"))
    said = done(run("rollout", "tick", "helper", "--plan", file, store=store))
    assert "helper: initialize: the first stable set is what the service's file asks for" in said
    file.write_text(text.replace("VERSION", "'2'"))
    said = done(run("rollout", "tick", "helper", "--plan", file, store=store))
    assert "helper: propose: the service's file or its models changed" in said
    assert "0 of 1 nodes have prepared set" in said


def test_a_campaign_without_dagster_is_ticked_from_nothing_to_a_trial(tmp_path: Path) -> None:
    """What a registered model needs is prepared by the command itself."""
    store, file = tmp_path / "store", tmp_path / "glossary.yaml"
    file.write_text(TICKED)
    handoffs = HandoffStore(LocalStore(store))

    def register(*models: ModelVersion) -> None:
        handoffs.publish(REGISTERED_VERSION, "tiny.define", to_table(models), code_version="1", run_id="r")

    register(model_of("tiny", 1, kind="base"))
    said = done(run("rollout", "tick", "glossary", "--plan", file, store=store))
    assert "glossary: initialize: the first stable set is the base, tiny version 1" in said
    register(model_of("tiny", 1, kind="base"), model_of("tiny", 2))
    said = done(run("rollout", "tick", "glossary", "--plan", file, store=store))
    assert "glossary: propose: tiny version 2 (recipe-2) is new" in said
    assert "glossary: prepare: 0 of 1 nodes have prepared set" in said
    assert "prepared it; it gets 10%" in said


TICKED = """
name: glossary
model: tiny
num_shards: 10
prompts: {files: prompts.jsonl, per_shard: 2}
decoding: {temperature: 0, top_p: 1, max_new_tokens: 8}
engine: {name: echo}
rollout: {steps: [0.1]}
"""
CHANGES = ("start", "tick", "advance", "pause", "resume", "approve", "abort")
COMMANDS = [
    *(f"rollout {name}" for name in (*CHANGES, "status", "journal", "verify", "rows", "page")),
    *(f"versions {name}" for name in ("ls", "show", "diff")),
]


@pytest.mark.parametrize("command", ["rollout", "versions", *COMMANDS])
def test_every_command_has_help_with_examples(command: str) -> None:
    said = done(run(*command.split(), "--help"))
    assert "Usage: headrace" in said
    assert command in {"rollout", "versions"} or f"Examples:\n    headrace {command}" in said


@pytest.mark.process
def test_help_imports_neither_arrow_nor_templates(tmp_path: Path) -> None:
    """Help must be instant, also where a module that it names brings something heavy."""
    code = (
        "import sys; from typer.testing import CliRunner; from headrace.command_line.main import app\n"
        "result = CliRunner().invoke(app, ['rollout', 'start', '--help'])\n"
        "heavy = {'pyarrow', 'polars', 'jinja2', 'scipy', 'numpy', 'yaml', 'mlflow', 'rich.table'} & set(sys.modules)\n"
        "print(result.exit_code, sorted(heavy))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.strip() == "0 []"


@pytest.mark.process
def test_a_terminal_is_asked_before_an_abort(scene: Scene) -> None:
    scene.start(2)
    for answer, code, event in ((b"n\n", 1, "started"), (b"y\n", 0, "aborted")):
        ours, theirs = pty.openpty()
        process = start("rollout", "abort", "support", "-m", "rude", store=scene.store.directory, stdin=theirs)
        os.write(ours, answer)
        _, said = process.communicate(timeout=60)
        assert process.returncode == code, said
        assert "Abort judge=referee:1, writer=tiny:2" in said
        assert newest(scene)["event"] == event
        os.close(ours)
        os.close(theirs)
