"""The places of this deployment's data: only this module reads Headrace's environment variables.

| variable | meaning | default |
|---|---|---|
| HEADRACE_HOME | state directory | `.headrace` in the checkout |
| HEADRACE_STORE | object store: a directory, or `s3://bucket/prefix` | `HEADRACE_HOME/store` |
| HEADRACE_CACHE | this node's copies from a remote store: a local directory | `HEADRACE_HOME/cache` |
| HEADRACE_CACHE_BYTES | limit of that cache, in bytes | 20000000000 |
| MLFLOW_TRACKING_URI | MLflow | SQLite in HEADRACE_HOME |
| HEADRACE_CORPUS | corpus file (YAML) | `resources/corpus.yaml` |
| HEADRACE_RECIPES | directory of training recipes | `resources/recipes` |
| HEADRACE_CAMPAIGNS | directory of campaigns | `resources/campaigns` |
| HEADRACE_SERVICES | directory of live services, such as `resources/services` | `HEADRACE_HOME/services` |
| HEADRACE_BASE_MODEL | directory or hub name of the model whose tokenizer prepares examples | the demo's model |
| HEADRACE_ENGINE | engine for every campaign (`echo` in tests) | each campaign's own |
| HEADRACE_FIRST_DAY, HEADRACE_TIMEZONE | first day of generation partitions | 2026-11-01, UTC |
| HEADRACE_AUTOMATION | `on`: schedules and sensors start running | off |
| HEADRACE_ALERT_WEBHOOK | URL that failed nights are posted to | none |
"""

import os
from dataclasses import dataclass
from pathlib import Path

from headrace.store.objects import ObjectStore
from headrace.store.opening import cache_bytes_of, open_store

TRACKING_URI = "MLFLOW_TRACKING_URI"
CHECKOUT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Settings:
    home: Path
    store_url: str
    cache: Path
    cache_bytes: int
    tracking_uri: str
    corpus: Path
    recipes: Path
    campaigns: Path
    services: Path
    base_model: str
    engine: str | None
    first_day: str
    timezone: str
    automation: bool
    alert_webhook: str | None

    def open_store(self) -> ObjectStore:
        return open_store(self.store_url, cache=self.cache, cache_bytes=self.cache_bytes)


def settings_from_environment() -> Settings:
    env = os.environ.get
    home = Path(env("HEADRACE_HOME") or CHECKOUT / ".headrace").absolute()
    return Settings(
        home=home,
        store_url=_store_url(env("HEADRACE_STORE") or str(home / "store")),
        cache=Path(env("HEADRACE_CACHE") or home / "cache").absolute(),
        cache_bytes=cache_bytes_of(env("HEADRACE_CACHE_BYTES")),
        tracking_uri=env(TRACKING_URI) or f"sqlite:///{home / 'mlflow.db'}",
        corpus=Path(env("HEADRACE_CORPUS") or CHECKOUT / "resources/corpus.yaml").absolute(),
        recipes=Path(env("HEADRACE_RECIPES") or CHECKOUT / "resources/recipes").absolute(),
        campaigns=Path(env("HEADRACE_CAMPAIGNS") or CHECKOUT / "resources/campaigns").absolute(),
        services=Path(env("HEADRACE_SERVICES") or home / "services").absolute(),
        base_model=env("HEADRACE_BASE_MODEL") or str(home / "models/smollm2-135m"),
        engine=env("HEADRACE_ENGINE") or None,
        first_day=env("HEADRACE_FIRST_DAY") or "2026-11-01",
        timezone=env("HEADRACE_TIMEZONE") or "UTC",
        automation=(env("HEADRACE_AUTOMATION") or "").lower() in {"on", "1", "true"},
        alert_webhook=env("HEADRACE_ALERT_WEBHOOK") or None,
    )


def _store_url(text: str) -> str:
    """Makes a directory absolute, since the processes that open it start in different ones."""
    return text if "://" in text else str(Path(text).absolute())
