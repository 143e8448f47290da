"""The command as a process: how it starts, how it ends, and what it prints where."""

import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from tests.command_line.builders import CHECKOUT, publish, run, start

pytestmark = pytest.mark.process


def test_help_imports_neither_arrow_nor_polars_nor_rich() -> None:
    program = (
        "import sys; from headrace.command_line.main import app\n"
        "try: app(['handoff', 'show', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'pyarrow', 'polars', 'numpy', 'rich', 'dagster', 'torch', 'obstore'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"


def test_a_pipe_gets_neither_colours_nor_boxes(store: Path) -> None:
    for command in ("handoff verify", "handoff show labels", "gc --dry-run --without-dagster"):
        process = start(*command.split(), store=store)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert not set("\x1b│─╭┃━\r") & set(out + err)


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    publish(tmp_path / "s", "a", "p", pa.table({"text": ["x" * 1000] * 20_000}))
    process = start("handoff", "export", "a", "p", "-", "-f", "jsonl", store=tmp_path / "s")
    assert process.stdout
    assert process.stderr
    process.stdout.readline()
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.wait(timeout=60)


def test_an_interruption_ends_quietly_and_leaves_no_target(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "out")
    publish(tmp_path / "s", "a", "p", pa.table({"text": ["x" * 1000] * 5000}))
    # Nobody reads: the export waits in its write.
    reader = os.open(tmp_path / "out", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(tmp_path / "out", os.O_WRONLY)
    process = start("handoff", "export", "a", "p", "-", "-f", "jsonl", store=tmp_path / "s", stdout=writer)
    select.select([reader], [], [], 60)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")


def test_a_mistake_is_a_sentence_on_stderr(store: Path) -> None:
    process = start("handoff", "show", "raw_documnets", store=store)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("Error: There is no asset 'raw_documnets'")


def test_on_a_terminal_gc_asks_before_it_deletes(store: Path) -> None:
    terminal, own = pty.openpty()
    arguments = ["gc", "--without-dagster", "--grace", "0", "--keep", "1"]
    process = start(*arguments, store=store, stdin=own)
    os.write(terminal, b"n\n")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, "Delete" in err) == (1, True)
    assert "2 versions and 0 orphans to collect" in out
    assert "raw_documents[shard-00] v1" in run("gc", "--dry-run", *arguments[1:], store=store).stdout
    process = start(*arguments, store=store, stdin=own)
    os.write(terminal, b"y\n")
    out, _ = process.communicate(timeout=60)
    assert "Collected 2 versions" in out


def test_a_terminal_gets_a_table_of_its_width(store: Path) -> None:
    terminal, own = pty.openpty()
    process = start("handoff", "show", "raw_documents", "shard-00", store=store, stdout=own, env={"COLUMNS": "60"})
    process.wait(timeout=60)
    shown = os.read(terminal, 65536).decode()
    preview = shown.split("First 5 rows")[1].splitlines()[1:]
    assert preview
    assert max(map(len, preview)) <= 60


def test_an_examination_of_a_good_store_ends_well(store: Path, tmp_path: Path) -> None:
    process = start("doctor", store=store, env={"DAGSTER_HOME": str(tmp_path)})
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, out + err
    checks = {line[6:].split("  ")[0] for line in out.splitlines() if line}
    assert checks >= {"packages", "reachable", "create if absent", "DAGSTER_HOME", "GPUs", "bf16", "small objects"}


def test_an_examination_of_a_missing_store_fails_and_makes_none(tmp_path: Path) -> None:
    process = start("doctor", "--json", store=tmp_path / "nowhere")
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 1
    assert '"well": false' in out
    assert f"There is no store at {tmp_path}/nowhere" in out
    assert list(tmp_path.iterdir()) == []
