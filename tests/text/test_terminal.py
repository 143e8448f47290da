"""Foreign text in everything that commands print: what was written is seen, and nothing else happens."""

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from rich.table import Table

from headrace.command_line.output import aligned, print_json
from headrace.errors import InvalidInput
from headrace.rollout import interventions
from headrace.text.drawing import Terminal, TerminalText
from headrace.text.terminal import answered, confirmed, say
from headrace.text.visible import visible_lines
from headrace_dagster.queue_views.queue_lines import plain_lines
from headrace_dagster.queue_views.queue_table import queue_table
from tests.command_line.builders import publish, run
from tests.headrace_dagster.queue_builders import NEXT, made_up_view, make_run
from tests.rollout.scenes import Scene
from tests.text.foreign import EVERYTHING, FOREIGN

READABLE = EVERYTHING.encode("utf-8", "replace").decode()
ANSI = "\x1b[31mred\x1b[0m\nError: not ours \x9b2J \u202egnp.exe [bold]x[/bold] :smile:"
SHOWN = "\\x1b[31mred\\x1b[0m Error: not ours \\x9b2J \\u202egnp.exe [bold]x[/bold] :smile:"
KEY = ANSI.replace("\n", " ")
# Colours that rich and typer write; nothing else may look like an escape sequence.
_STYLE = re.compile(r"\x1b\[[0-9;]*m")


def drawn(what: object) -> str:
    terminal = Terminal(file=io.StringIO(), force_terminal=True, width=2000)
    terminal.print(what)
    assert isinstance(terminal.file, io.StringIO)
    return _STYLE.sub("", terminal.file.getvalue())


@pytest.mark.parametrize("text", FOREIGN, ids=range(len(FOREIGN)))
def test_rich_takes_foreign_text_for_markup_nowhere(text: str):
    table = Table("header")
    table.add_row(text)
    styled = TerminalText("", "bold").append(text, "red")
    for what in (text, table, TerminalText(text), styled):
        shown = drawn(what)
        assert visible_lines(shown) == shown
        for line in visible_lines(text).split("\n"):
            assert line.rstrip().expandtabs() in shown


def test_a_message_keeps_its_lines_and_nothing_else(capsys: pytest.CaptureFixture[str]):
    say("first\n\x1b[2Jsecond", error=True)
    assert capsys.readouterr().err == "first\n\\x1b[2Jsecond\n"


class Typing(io.StringIO):
    """A terminal at which somebody types lines, and then interrupts."""

    def readline(self, size: int | None = -1, /) -> str:
        return super().readline() or self._interrupted()

    def _interrupted(self) -> str:
        raise KeyboardInterrupt


def test_blanks_are_no_answer_and_are_not_part_of_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", Typing("  \n an answer \n"))
    assert answered("What?") == "an answer"


@pytest.mark.parametrize("ask", [answered, confirmed])
def test_an_input_that_ends_is_a_refusal_and_an_interruption_stays_one(
    monkeypatch: pytest.MonkeyPatch, ask: Callable[[str], object]
):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(InvalidInput, match="The question was not answered, so nothing was done"):
        ask("What?")
    monkeypatch.setattr("sys.stdin", Typing(""))
    with pytest.raises(KeyboardInterrupt):
        ask("What?")


def test_rows_stay_rows():
    assert aligned([["a\nb", "c"], ["d", "\x1b[0m"]]) == ["a\\nb  c", "d     \\x1b[0m"]


def test_json_says_the_same_without_steering(capsys: pytest.CaptureFixture[str]):
    print_json({"text": EVERYTHING})
    printed = capsys.readouterr().out
    assert visible_lines(printed) == printed
    assert json.loads(printed) == {"text": EVERYTHING}


def test_commands_on_handoffs_show_foreign_text(tmp_path: Path):
    stated = {"code_version": ANSI, "attributes": {ANSI: ANSI}, "input_versions": {ANSI: f"v1 {'a' * 64}"}}
    column = f"text {ANSI}"
    for answer in ("before", "after"):
        rows = pa.table({column: [READABLE, f"{ANSI} {answer}"], "of": [[ANSI] * 9, [ANSI]]})
        publish(tmp_path, "rows", KEY, rows, run_id=f"{answer} {ANSI}", **stated)
    reference = f"rows[{KEY}]"
    for words in (
        ["ls"],
        ["ls", "rows"],
        ["ls", "--versions"],
        ["show", reference],
        ["show", reference, "--json"],
        ["diff", f"{reference}@v1", f"{reference}@v2"],
        ["verify"],
        ["gc", "--dry-run", "--without-dagster", "--show-kept"],
        ["show", "rows", f"x{ANSI}"],
        ["export", reference, f"{tmp_path}/{ANSI}"],
    ):
        result = run("handoff", *words, store=tmp_path)
        printed = result.stdout + result.stderr
        assert visible_lines(printed) == printed, words
        assert result.exception is None or isinstance(result.exception, SystemExit), words
        assert "Error: not ours" not in [line[: len("Error: not ours")] for line in printed.splitlines()], words
    assert SHOWN.split(" Error")[0] in run("handoff", "show", reference, store=tmp_path).stdout


def test_commands_on_rollouts_show_who_and_why(tmp_path: Path):
    scene = Scene(tmp_path)
    proposal = scene.start(2)
    scene.prepare(proposal, node=ANSI, error=ANSI)
    interventions.pause(scene.journal, by=ANSI, reason=ANSI)
    for words in (["status"], ["status", scene.name], ["journal", scene.name], ["verify"], ["status", ANSI]):
        result = run("rollout", *words, store=tmp_path)
        printed = result.stdout + result.stderr
        assert visible_lines(printed) == printed, words
    assert SHOWN in run("rollout", "journal", scene.name, store=tmp_path).stdout


def test_the_queue_shows_nodes_and_reasons():
    there = made_up_view()
    named = make_run(NEXT, job_name=ANSI)
    asked = there.queued[0].asked
    assert asked
    asked = replace(asked, queue=ANSI)
    view = replace(there, queued=[replace(one, why=ANSI, run=named, asked=asked) for one in there.queued])
    view = replace(view, nodes=[replace(one, node=replace(one.node, name=ANSI)) for one in there.nodes])
    shown = drawn(queue_table(view, limit=9, width=2000))
    assert shown.count("\\x1b[31mred") >= 2 * len(view.queued) + len(view.nodes)
    for text in (shown, *plain_lines(view, limit=9)):
        assert visible_lines(text) == text


def test_a_refusal_cannot_pass_for_several(tmp_path: Path):
    publish(tmp_path, "rows", "all", pa.table({"n": [1]}))
    result = run("handoff", "show", ANSI, store=tmp_path)
    assert result.exit_code == 2
    assert "\\x1b[31mred\\x1b[0m" in result.stderr
    assert [line for line in result.stderr.splitlines() if line.startswith("Error: not ours")] == []
