"""`make dev` stands where the project's `.env` says, as its runs do."""

import signal
from pathlib import Path

import pytest

from pipelines import dev


@pytest.mark.parametrize("in_the_environment", [None, "3917"])
def test_a_line_of_the_env_file_counts_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], in_the_environment: str | None
) -> None:
    (tmp_path / "dg.toml").write_text('directory_type = "project"\n')
    (tmp_path / ".env").write_text("HEADRACE_PORT=65536\n")
    monkeypatch.chdir(tmp_path)
    if in_the_environment is None:
        monkeypatch.delenv("HEADRACE_PORT", raising=False)
    else:
        monkeypatch.setenv("HEADRACE_PORT", in_the_environment)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit):
            dev.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "HEADRACE_PORT must be a port from 1 to 65535, got '65536'." in capsys.readouterr().err
