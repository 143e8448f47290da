"""A project's settings: what its environment variables mean, and what holds without them. Each value is checked here.

| variable | meaning | default |
|---|---|---|
| HEADRACE_HOME | state directory | `.headrace` in the project |
| HEADRACE_STORE | object store: a directory, or `s3://bucket/prefix` | `HEADRACE_HOME/store` |
| HEADRACE_CACHE | this node's copies from a remote store: a local directory | `HEADRACE_HOME/cache` |
| HEADRACE_CACHE_BYTES | limit of that cache, in bytes | 20000000000 |
| MLFLOW_TRACKING_URI | MLflow | SQLite in HEADRACE_HOME |
| HEADRACE_CORPUS | corpus file (YAML) | `resources/corpus.yaml` |
| HEADRACE_IMAGES | images file (YAML): captioned pictures, if there are any | `resources/images.yaml` |
| HEADRACE_RECIPES | directory of training recipes | `resources/recipes` |
| HEADRACE_CAMPAIGNS | directory of campaigns | `resources/campaigns` |
| HEADRACE_SERVICES | directory of live services, such as `resources/services` | `HEADRACE_HOME/services` |
| HEADRACE_BASE_MODEL | directory or hub name of the model whose tokenizer prepares examples | the demo's model |
| HEADRACE_ENGINE | engine for every campaign (`echo` in tests) | each campaign's own |
| HEADRACE_FIRST_DAY, HEADRACE_TIMEZONE | first day of generation partitions | 2026-11-01, UTC |
| HEADRACE_AUTOMATION | `on`: schedules and sensors start running; `off` | off |
| HEADRACE_ENGINE_HOST | who holds models: a host (`on`, or its socket), only without a GPU (`cpu`), or `off` | cpu |
| HEADRACE_ENGINE_HOST_MIB | memory for all models of a host that a run starts, in MiB | 80% of the machine's |
| HEADRACE_ENGINE_HOST_IDLE_SECONDS | after so many seconds without work a model leaves, and so does its host | 120 |
| HEADRACE_ENGINE_KEY | key for the servers behind the engine openai_http | none |
| HEADRACE_ALERT_WEBHOOK | URL that failed nights are posted to | none |
| HEADRACE_PORT | port of Dagster's UI where Headrace starts it | 3000 |
| HEADRACE_UI_URL | address of Dagster's UI, which reports link to | that port of 127.0.0.1 |

Relative paths start at the working directory, defaults at the project's root.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from headrace.engines.host.address import (
    CPU_ONLY,
    ENGINE_HOST,
    HOST_IDLE_SECONDS,
    HOST_MIB,
    checked_idle_seconds,
    checked_mib,
    checked_word,
)
from headrace.engines.registry import engine_names
from headrace.errors import InvalidInput
from headrace.keys import is_day
from headrace.masking import without_credentials
from headrace.store.addresses import is_address
from headrace.store.objects import ObjectStore
from headrace.store.opening import cache_bytes_of, open_store

TRACKING_URI = "MLFLOW_TRACKING_URI"
_NAMES = frozenset(re.findall(r"HEADRACE_[A-Z_]+", __doc__ or ""))
# A gateway's own, and near to one of ours.
_OTHERS = frozenset({"HEADRACE_SERVICE", "HEADRACE_INBOX", "HEADRACE_INBOX_LOG"})
# Words that people write; any other would else be taken for off.
_SWITCH = {"on": True, "true": True, "yes": True, "1": True, "off": False, "false": False, "no": False, "0": False}
DEFAULT_PORT = 3000
_HOST_AND_PORT = re.compile(r"[\w.-]+:\d+(?:/.*)?")
T = TypeVar("T")


class InvalidSetting(InvalidInput):
    """An environment variable with a value that means nothing."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    home: Path
    store_url: str
    cache: Path
    cache_bytes: int
    tracking_uri: str
    corpus: Path
    images: Path
    recipes: Path
    campaigns: Path
    services: Path
    base_model: str
    engine: str | None
    engine_host: str
    first_day: str
    timezone: str
    automation: bool
    alert_webhook: str | None
    ui_url: str

    def open_store(self) -> ObjectStore:
        return open_store(self.store_url, cache=self.cache, cache_bytes=self.cache_bytes)


def settings_of(environment: Mapping[str, str], root: Path) -> Settings:
    """Reads the variables; an empty one counts as not set.

    Args:
        root: the project's directory.

    Raises:
        InvalidSetting: variables have values that mean nothing; each is named, with what was wanted.
    """
    faults: list[str] = []

    def of(name: str, read: Callable[[str], T], default: T) -> T:
        text = environment.get(name)
        if not text:
            return default
        try:
            return read(text)
        except InvalidInput as error:
            faults.append(str(error) if str(error).startswith(name) else f"{name} {error}")
            return default

    port = of("HEADRACE_PORT", port_of, DEFAULT_PORT)
    home = of("HEADRACE_HOME", _path, root / ".headrace")
    settings = Settings(
        home=home,
        store_url=of("HEADRACE_STORE", _store_url, str(home / "store")),
        cache=of("HEADRACE_CACHE", _path, home / "cache"),
        cache_bytes=of("HEADRACE_CACHE_BYTES", cache_bytes_of, cache_bytes_of(None)),
        tracking_uri=of(TRACKING_URI, _tracking_uri, f"sqlite:///{home / 'mlflow.db'}"),
        corpus=of("HEADRACE_CORPUS", _path, root / "resources/corpus.yaml"),
        images=of("HEADRACE_IMAGES", _path, root / "resources/images.yaml"),
        recipes=of("HEADRACE_RECIPES", _path, root / "resources/recipes"),
        campaigns=of("HEADRACE_CAMPAIGNS", _path, root / "resources/campaigns"),
        services=of("HEADRACE_SERVICES", _path, home / "services"),
        base_model=environment.get("HEADRACE_BASE_MODEL") or str(home / "models/smollm2-135m"),
        engine=of("HEADRACE_ENGINE", _engine, None),
        engine_host=of(ENGINE_HOST, checked_word, CPU_ONLY),
        first_day=of("HEADRACE_FIRST_DAY", _day, "2026-11-01"),
        timezone=of("HEADRACE_TIMEZONE", _timezone, "UTC"),
        automation=of("HEADRACE_AUTOMATION", _switch, False),
        alert_webhook=of("HEADRACE_ALERT_WEBHOOK", _address, None),
        ui_url=of("HEADRACE_UI_URL", _address, f"http://127.0.0.1:{port}").rstrip("/"),
    )
    # The host that a run starts reads them; wrong ones would only keep it from starting.
    of(HOST_MIB, checked_mib, None)
    of(HOST_IDLE_SECONDS, checked_idle_seconds, None)
    if faults:
        raise InvalidSetting("\n  ".join(faults))
    return settings


def port_of(text: str) -> int:
    """Raises: InvalidInput: it is no port."""
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text[:9]) <= 65535:
        raise InvalidInput(f"must be a port from 1 to 65535, got {text!r}.")
    return int(text)


def misspelt_variables(environment: Mapping[str, str]) -> list[str]:
    """What is set and nobody reads, a sentence for each: its value would silently have no effect."""
    return [
        f"{name} is set, and nothing reads it: did you mean {near[0]}?"
        for name in sorted(environment)
        if name.upper().startswith("HEADRACE") and name not in _NAMES | _OTHERS
        if (near := difflib.get_close_matches(name.upper(), sorted(_NAMES), n=1, cutoff=0.9))
    ]


def _path(text: str) -> Path:
    if "\0" in text:
        raise InvalidInput(f"must be a path, got {text!r}.")
    if is_address(text):
        raise InvalidInput(f"must be a path on a local disk, got the address {without_credentials(text)!r}.")
    return Path(text).expanduser().absolute()


def _store_url(text: str) -> str:
    """Makes a directory absolute, since the processes that open it start in different ones."""
    if not is_address(text):
        return str(_path(text))
    if not re.match(r"s3://[^/]|file://", text):
        raise InvalidInput(f"must be a directory or s3://BUCKET/PREFIX, got {without_credentials(text)!r}.")
    return text


def _tracking_uri(text: str) -> str:
    # MLflow would take it for a directory of that name.
    if _HOST_AND_PORT.fullmatch(text):
        raise InvalidInput(f"must begin with its protocol, such as http://{text}, got {text!r}.")
    return text


def _engine(text: str) -> str | None:
    if text not in (there := engine_names()):
        raise InvalidInput(f"must be an installed engine ({', '.join(there) or 'there is none'}), got {text!r}.")
    return text


def _day(text: str) -> str:
    wish = f"must be a day as YYYY-MM-DD, got {text!r}."
    if not is_day(text):
        raise InvalidInput(wish)
    try:
        date.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(wish) from error
    return text


def _timezone(text: str) -> str:
    # Imported here: only who sets the variable pays for it.
    from zoneinfo import ZoneInfo, available_timezones

    try:
        ZoneInfo(text)
    except (ValueError, OSError, KeyError) as error:  # a name with .., a directory of zones, no zone
        zones = {zone.casefold(): zone for zone in available_timezones()}
        cities = {zone.rpartition("/")[2]: name for zone, name in zones.items()}
        word = text.casefold()
        near = difflib.get_close_matches(word, zones, n=1)
        found = zones.get(word) or cities.get(word) or (zones[near[0]] if near else None)
        hint = f" Did you mean {found}?" if found else ""
        raise InvalidInput(f"must be a time zone such as Europe/Berlin, got {text!r}.{hint}") from error
    return text


def _switch(text: str) -> bool:
    if text.lower() not in _SWITCH:
        raise InvalidInput(f"must be on or off, got {text!r}.")
    return _SWITCH[text.lower()]


def _address(text: str) -> str:
    try:
        parts = urlsplit(text)
        is_web = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:  # half of an IPv6 address
        is_web = False
    if not is_web:
        # Whole it may not be shown: many such addresses have their secret in the path.
        shown = text.partition("/")[0][:40]
        raise InvalidInput(f"must be an address that begins with http:// or https://, got one with {shown!r} there.")
    return text
