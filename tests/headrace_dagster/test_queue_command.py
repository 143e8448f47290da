"""`headrace queue` and `headrace why` on real Dagster instances, without a daemon."""

import json
import os
import pty
import select
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent

import dagster as dg
import pytest
from typer.testing import Result

from headrace.placement.demand import Demand
from headrace.placement.needs import RunNeeds
from headrace.placement.placements import Placement
from headrace_dagster.coordinator.admission import (
    ADMITTED,
    GATE_TAG,
    HELD,
    NEEDS_TAG,
    PLACEMENT_TAG,
    WHY_TAG,
    Admission,
)
from headrace_dagster.queue_views.queue_view import FIVE_LINES
from tests.command_line.builders import run, start
from tests.headrace_dagster.queue_builders import (
    GANG,
    NEVER,
    NEXT,
    SMALL,
    TEXTS,
    TRAINING,
    make_run,
    run_id,
    shares,
)


class Site:
    """A directory with a dagster.yaml, and runs in it."""

    def __init__(self, home: Path, settings: str = FIVE_LINES) -> None:
        self.home = home
        home.mkdir(exist_ok=True)
        (home / "dagster.yaml").write_text(settings + "\ntelemetry: {enabled: false}\n")
        self.instance = dg.DagsterInstance.from_config(str(home))

    def add(
        self, beginning: str, status: str, needs: RunNeeds, *, placement: Placement | None = None, why: str = ""
    ) -> None:
        gate = {GATE_TAG: HELD if placement is None else ADMITTED, NEEDS_TAG: needs.to_json(), WHY_TAG: why}
        if placement is not None:
            admission = Admission(run_id=run_id(beginning), at=time.time() - 600, placement=placement)
            gate[PLACEMENT_TAG] = admission.to_json()
        stated = make_run(beginning, job_name=f"job_{beginning}", status=dg.DagsterRunStatus(status), tags=gate)
        self.instance.run_storage.add_run(stated)

    def run(self, *arguments: str, **variables: str) -> Result:
        env = {"DAGSTER_HOME": str(self.home), "HEADRACE_GPUS": "4xH100:81559", **variables}
        return run(*arguments, env=env)

    def rows(self) -> dict[str, list[tuple]]:
        """All that the instance's databases hold."""
        found = {}
        for path in sorted(self.home.rglob("*.db")):
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
                tables = [name for (name,) in connection.execute("select name from sqlite_master where type='table'")]
                for table in tables:
                    found[f"{path.name}:{table}"] = connection.execute(f'select * from "{table}"').fetchall()
        return found


def needs(num_gpus: int, **stated: object) -> RunNeeds:
    return RunNeeds(demand=Demand(num_gpus=num_gpus, **stated), expected_seconds=1800.0)  # pyright: ignore


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Four GPUs: three are held; a gang of four waits, a run that fits, and one that never will."""
    home = tmp_path_factory.mktemp("site") / "home"
    site = Site(home)
    site.add(TRAINING, "STARTED", needs(3), placement=Placement(gpus=shares(os.uname().nodename, "012")))
    site.add(GANG, "QUEUED", needs(4))
    site.add(NEXT, "QUEUED", needs(1, gpu_milli=500))
    site.add(TEXTS, "SUCCESS", needs(1), placement=Placement(gpus=shares(os.uname().nodename, "3")))
    for beginning in (SMALL, "aaaa0001", "aaaa0002"):
        site.add(beginning, "CANCELED", needs(1))
    site.add(NEVER, "QUEUED", needs(64))
    site.add("bbbb0001", "FAILURE", needs(1), why="Asks for 200 CPUs; the largest node has 2 CPUs (vm).")
    with site.instance:
        yield site


def test_the_queue_shows_holders_and_reasons(site: Site) -> None:
    result = site.run("queue")
    assert result.exit_code == 0, result.stderr
    held = [line for line in result.stdout.splitlines() if "H100" in line]
    assert [TRAINING in line for line in held] == [True, True, True, False]
    assert f"job_{GANG}" in result.stdout
    assert "daemon has never looked at this queue" in result.stderr


def test_json_says_the_same_to_programs(site: Site) -> None:
    body = json.loads(site.run("queue", "--json").stdout)
    states = {run["run_id"][:8]: run["state"] for run in (*body["running"], *body["queued"])}
    assert states == {TRAINING: "running", GANG: "held", NEXT: "next", NEVER: "impossible"}
    assert (body["num_queued"], body["daemon_silent_seconds"]) == (3, -1)
    assert [len(gpu["held_by"]) for gpu in body["nodes"][0]["gpus"]] == [1, 1, 1, 0]


def test_why_answers_for_a_held_run_by_the_beginning_of_its_id(site: Site) -> None:
    result = site.run("why", GANG[:4].upper())
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"Run {GANG} is held. ")
    assert "4 whole GPUs on one node" in result.stdout
    body = json.loads(site.run("why", GANG, "--json").stdout)
    assert (body["state"], body["run_id"]) == ("held", run_id(GANG))
    assert body["why"] in result.stdout


@pytest.mark.parametrize(
    ("beginning", "state", "said"),
    [
        (TRAINING, "running", "Runs on {host} (GPUs 0–2); should end about"),
        (NEXT, "next", "Starts when the daemon looks next, on {host} (0.5 of GPU 3)"),
        (TEXTS, "finished", "held {host} (GPU 3) from"),
        (SMALL, "finished", "Was canceled; the coordinator never gave it a place."),
        ("bbbb0001", "finished", "never gave it a place: Asks for 200 CPUs; the largest node has 2 CPUs (vm)."),
    ],
)
def test_why_answers_for_runs_that_do_not_wait(site: Site, beginning: str, state: str, said: str) -> None:
    body = json.loads(site.run("why", run_id(beginning), "--json").stdout)
    assert body["state"] == state
    wanted = said.format(host=os.uname().nodename).replace(
        "(GPU 3)", "(0.5 of GPU 3)" if beginning == NEXT else "(GPU 3)"
    )
    assert wanted in body["why"]
    assert (body["placement"] is None) == (beginning in (SMALL, "bbbb0001"))


def test_nothing_is_written(site: Site) -> None:
    before = site.rows()
    assert before
    for arguments in (["queue"], ["queue", "--json"], ["why", GANG], ["why", TEXTS]):
        assert site.run(*arguments).exit_code == 0
    assert site.rows() == before


MISTAKES = {
    "an id that is none": (["why", "ffff"], "No run's id begins with 'ffff'"),
    "a whole id that is none": (["why", run_id("ffffffff")], "No run's id begins with"),
    "no id at all": (["why", " "], "named by its id"),
    "looking too often": (["queue", "--every", "0.01"], "--every must be at least 0.2"),
    "GPUs that cannot be read": (["queue"], "many"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_in_a_sentence(mistake: str, site: Site) -> None:
    typed, wanted = MISTAKES[mistake]
    variables = {"HEADRACE_GPUS": "many"} if "GPUs" in mistake else {}
    result = site.run(*typed, **variables)
    assert wanted in result.stderr
    assert (result.exit_code, result.stdout) == (2, "")


def test_an_ambiguous_beginning_names_the_runs(site: Site) -> None:
    result = site.run("why", "aaaa")
    assert f"2 runs begin with 'aaaa', so say which: {run_id('aaaa0001')}, {run_id('aaaa0002')}." in result.stderr
    assert result.exit_code == 2
    assert json.loads(site.run("why", "aaaa0002", "--json").stdout)["run_id"] == run_id("aaaa0002")


def test_as_few_letters_as_tell_runs_under_way_apart_are_enough(site: Site) -> None:
    """Among thousands of finished runs, one letter names the one that waits."""
    assert json.loads(site.run("why", "a", "--json").stdout)["run_id"] == run_id(GANG)


@pytest.mark.parametrize("command", [["queue"], ["why", "a1b2"]])
def test_surroundings_that_are_none_are_a_sentence(command: list[str], tmp_path: Path) -> None:
    assert "DAGSTER_HOME is not set" in run(*command).stderr
    (tmp_path / "empty").mkdir()
    for home in ("nowhere", "empty"):
        result = run(*command, env={"DAGSTER_HOME": str(tmp_path / home)})
        assert "where there is no dagster.yaml" in result.stderr
        assert result.exit_code == 2
    assert not (tmp_path / "nowhere").exists()
    assert list((tmp_path / "empty").iterdir()) == []


def test_another_coordinator_is_answered_with_the_five_lines(tmp_path: Path) -> None:
    Site(tmp_path / "home", "run_monitoring: {enabled: true}").instance.dispose()
    result = run("queue", env={"DAGSTER_HOME": str(tmp_path / "home")})
    assert result.exit_code == 2
    assert "has QueuedRunCoordinator, which knows nothing of GPUs" in result.stderr
    assert result.stderr.rstrip().endswith(indent(FIVE_LINES, "  "))
    assert len(FIVE_LINES.splitlines()) == 5


@pytest.mark.parametrize(
    "settings",
    [
        "run_coordinator: {module: headrace_dagster, class: GpuRunCoordinator, config: {inventary: x}}",
        "run_coordinator: {module: headrace_dagster, class: GpuRunCoordinator, config: {policy: {colour: red}}}",
        "run_coordinator: {module: no_such_module, class: Any}",
        "run_coordinator: [",
    ],
)
def test_a_wrong_dagster_yaml_is_a_sentence(settings: str, tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text(settings)
    result = run("queue", env={"DAGSTER_HOME": str(tmp_path)})
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", [["queue"], ["why", "a1b2"]])
def test_databases_that_do_not_answer_are_a_sentence(command: list[str], tmp_path: Path) -> None:
    site = Site(tmp_path / "home")
    site.instance.dispose()
    [database] = site.home.rglob("runs.db")
    for file in database.parent.glob("runs.db*"):
        file.unlink()
    database.mkdir()
    result = site.run(*command)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"The databases of Dagster's instance at {site.home} do not answer (unable to open database" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_an_instance_that_may_not_be_read_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text(FIVE_LINES)
    tmp_path.chmod(0)
    try:
        result = run("queue", env={"DAGSTER_HOME": str(tmp_path)})
    finally:
        tmp_path.chmod(0o700)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: You may not read {tmp_path / 'dagster.yaml'}, which belongs to ")


def test_a_run_that_can_never_run_says_so(site: Site) -> None:
    assert site.run("why", NEVER).stdout.startswith(f"Run {NEVER} can never run here. Asks for 64 GPUs")


@pytest.mark.process
def test_watching_ends_with_an_interrupt_and_leaves_the_terminal_as_it_was(site: Site) -> None:
    terminal, own = pty.openpty()
    env = {"DAGSTER_HOME": str(site.home), "HEADRACE_GPUS": "4xH100:81559", "TERM": "xterm-256color", "COLUMNS": "100"}
    process = start("queue", "--watch", "--every", "0.2", env=env, stdout=own)
    shown = ""
    while "AT LATEST" not in shown and process.poll() is None:
        if select.select([terminal], [], [], 1)[0]:
            shown += os.read(terminal, 65536).decode(errors="replace")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    shown += os.read(terminal, 65536).decode(errors="replace")
    assert "Ctrl-C ends" in shown
    assert "\x1b[?1049l" in shown
    os.close(terminal)
    os.close(own)


def test_no_help_waits_for_dagster() -> None:
    for command in ("queue", "why"):
        result = run(command, "--help")
        assert result.exit_code == 0
        assert f"headrace {command}" in result.stdout.split("Examples:")[1]
