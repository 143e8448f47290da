"""Which campaigns take events, and by which rules."""

from pathlib import Path

import pytest

from headrace.inbox.rules import InboxRules, campaigns_of_files


def write(directory: Path, name: str, text: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / f"{name}.yaml").write_text(text)


def test_a_campaign_s_section_is_all_that_is_read_of_its_file(tmp_path: Path) -> None:
    write(
        tmp_path, "a", "name: slogans\nunknown: 1\nprompts:\n  inbox: {window_seconds: 60, late: keep}\n  template: x\n"
    )
    write(tmp_path, "b", "name: glossary\nprompts: {files: 'a.jsonl'}\n")
    found = campaigns_of_files(tmp_path)
    assert not found.problems
    assert {campaign.name: campaign.rules for campaign in found} == {
        "slogans": InboxRules(window_seconds=60, late="keep"),
        "glossary": None,
    }


def test_an_empty_section_takes_events_by_the_usual_rules(tmp_path: Path) -> None:
    write(tmp_path, "a", "name: slogans\nprompts:\n  inbox:\n")
    assert campaigns_of_files(tmp_path).find("slogans").rules == InboxRules()


def test_a_broken_section_costs_its_own_campaign(tmp_path: Path) -> None:
    write(tmp_path, "a", "name: slogans\nprompts:\n  inbox: {windows: 60, rows_max: 0}\n")
    write(tmp_path, "b", "name: orders\nprompts:\n  inbox:\n")
    found = campaigns_of_files(tmp_path)
    assert list(found.by_name) == ["orders"]
    (problem,) = found.problems
    assert "unknown key 'windows'" in problem
    assert "rows_max must be between 1 and 1,000,000, got 0" in problem


@pytest.mark.parametrize("text", ["", "- a\n", "prompts:\n  inbox:\n"])
def test_a_file_without_a_name_is_broken(tmp_path: Path, text: str) -> None:
    write(tmp_path, "a", text)
    (problem,) = campaigns_of_files(tmp_path).problems
    assert "must be a mapping with a name" in problem


def test_a_window_waits_for_the_watermark_as_long_as_its_rules_may_take() -> None:
    rules = InboxRules(window_seconds=60, lateness_seconds=5.0, idle_seconds=30.0)
    assert rules.closes_after_seconds == 95.0
    assert InboxRules(close_seconds=7.0).closes_after_seconds == 7.0
