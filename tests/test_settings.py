"""What the environment's variables mean: each value is checked, the variable is named, and nothing is silently off."""

from pathlib import Path

import pytest

from headrace.engines.registry import engine_names
from headrace.settings import InvalidSetting, misspelt_variables, settings_of

_ENGINES = ", ".join(engine_names())
_ZONE = "must be a time zone such as Europe/Berlin"
_ADDRESS = "must be an address that begins with http:// or https://"
_HOST = "must be off, on, cpu, or the absolute path of an engine host's socket"


def test_without_variables_everything_lies_in_the_project(tmp_path: Path) -> None:
    settings = settings_of({"HEADRACE_HOME": "", "HEADRACE_TIMEZONE": ""}, tmp_path)
    assert (settings.home, settings.campaigns) == (tmp_path / ".headrace", tmp_path / "resources/campaigns")
    assert (settings.store_url, settings.services) == (str(settings.home / "store"), settings.home / "services")
    assert (settings.first_day, settings.timezone, settings.automation) == ("2026-11-01", "UTC", False)
    assert (settings.engine, settings.alert_webhook) == (None, None)
    assert settings.engine_host == "cpu"
    assert settings.ui_url == "http://127.0.0.1:3000"


def test_what_a_variable_says_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {
        "HEADRACE_HOME": "state",
        "HEADRACE_STORE": "s3://bucket/prefix",
        "HEADRACE_ENGINE": "echo",
        "HEADRACE_FIRST_DAY": "2024-02-29",
        "HEADRACE_TIMEZONE": "Europe/Berlin",
        "HEADRACE_ALERT_WEBHOOK": "https://hooks.example/T0/secret",
    }
    settings = settings_of(environment, tmp_path)
    assert (settings.home, settings.store_url) == (tmp_path / "state", "s3://bucket/prefix")
    assert (settings.engine, settings.first_day, settings.timezone) == ("echo", "2024-02-29", "Europe/Berlin")
    assert settings.alert_webhook == "https://hooks.example/T0/secret"


def test_reports_link_to_the_ui_where_it_is(tmp_path: Path) -> None:
    assert settings_of({"HEADRACE_PORT": "3917"}, tmp_path).ui_url == "http://127.0.0.1:3917"
    environment = {"HEADRACE_PORT": "3917", "HEADRACE_UI_URL": "https://dagster.example/prefix/"}
    assert settings_of(environment, tmp_path).ui_url == "https://dagster.example/prefix"


@pytest.mark.parametrize(
    ("word", "is_on"),
    [*((word, True) for word in ("on", "ON", "yes", "true", "1")), *((word, False) for word in ("off", "No", "0"))],
)
def test_automation_is_on_or_off_in_every_spelling(tmp_path: Path, word: str, is_on: bool) -> None:
    assert settings_of({"HEADRACE_AUTOMATION": word}, tmp_path).automation is is_on


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("HEADRACE_FIRST_DAY", "tomorrow", "must be a day as YYYY-MM-DD, got 'tomorrow'."),
        ("HEADRACE_FIRST_DAY", "2026-02-30", "must be a day as YYYY-MM-DD, got '2026-02-30'."),
        ("HEADRACE_FIRST_DAY", "20261101", "must be a day as YYYY-MM-DD, got '20261101'."),
        ("HEADRACE_TIMEZONE", "Berlin", f"{_ZONE}, got 'Berlin'. Did you mean Europe/Berlin?"),
        ("HEADRACE_TIMEZONE", "europe/berlin", f"{_ZONE}, got 'europe/berlin'. Did you mean Europe/Berlin?"),
        ("HEADRACE_TIMEZONE", "../etc/passwd", f"{_ZONE}, got '../etc/passwd'."),
        ("HEADRACE_AUTOMATION", "enabled", "must be on or off, got 'enabled'."),
        ("HEADRACE_ENGINE", "tgi", f"must be an installed engine ({_ENGINES}), got 'tgi'."),
        ("HEADRACE_ENGINE_HOST", "warm", f"{_HOST}, got 'warm'."),
        ("HEADRACE_ENGINE_HOST", "/" + "a" * 100, "must be a path of at most 100 bytes, got one of 101."),
        ("HEADRACE_ENGINE_HOST_MIB", "lots", "must be a positive whole number of MiB, got 'lots'."),
        ("HEADRACE_ENGINE_HOST_MIB", "0", "must be a positive whole number of MiB, got '0'."),
        ("HEADRACE_ENGINE_HOST_IDLE_SECONDS", "-3", "must be a number of seconds, 0 or more, got '-3'."),
        ("HEADRACE_ENGINE_HOST_IDLE_SECONDS", "nan", "must be a number of seconds, 0 or more, got 'nan'."),
        ("HEADRACE_CACHE_BYTES", "20GB", "must be a positive whole number of bytes, got '20GB'."),
        ("HEADRACE_STORE", "gs://bucket", "must be a directory or s3://BUCKET/PREFIX, got 'gs://bucket'."),
        ("HEADRACE_HOME", "a\0b", r"must be a path, got 'a\x00b'."),
        ("HEADRACE_UI_URL", "dagster.example", f"{_ADDRESS}, got one with 'dagster.example' there."),
        ("HEADRACE_PORT", "65536", "must be a port from 1 to 65535, got '65536'."),
        ("HEADRACE_ALERT_WEBHOOK", "hooks.example/T0/secret", f"{_ADDRESS}, got one with 'hooks.example' there."),
    ],
)
def test_a_value_that_means_nothing_is_refused_with_its_variable(
    tmp_path: Path, variable: str, value: str, told: str
) -> None:
    with pytest.raises(InvalidSetting) as refused:
        settings_of({variable: value}, tmp_path)
    assert str(refused.value) == f"{variable} {told}"


def test_all_wrong_variables_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting) as refused:
        settings_of({"HEADRACE_AUTOMATION": "maybe", "HEADRACE_FIRST_DAY": "soon"}, tmp_path)
    assert [line.split()[0] for line in str(refused.value).splitlines()] == [
        "HEADRACE_FIRST_DAY",
        "HEADRACE_AUTOMATION",
    ]


def test_a_misspelt_variable_is_told_and_a_gateways_own_is_none() -> None:
    others = ("HEADRACE_SERVICE", "HEADRACE_GATEWAY_PORT", "HEADRACE_ENGINE_HOST_MIB", "HOME")
    environment = {"HEADRACE_CAMPAINGS": "x"} | dict.fromkeys(others, "1")
    assert misspelt_variables(environment) == [
        "HEADRACE_CAMPAINGS is set, and nothing reads it: did you mean HEADRACE_CAMPAIGNS?"
    ]
