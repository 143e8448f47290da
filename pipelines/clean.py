"""`make clean`: removes this checkout's state (runs, store, logs, caches); keeps `.venv`, models and corpus."""

import shutil

from headrace.errors import HeadraceError
from headrace.text.terminal import say
from headrace_dagster.project.services import locked
from resources.settings import CHECKOUT, settings_from_environment

KEPT = {"models", "corpus", ".demo-inputs", "setup.lock", "services.lock"}


def main() -> None:
    settings = settings_from_environment()
    if not settings.home.exists():
        return
    try:
        with locked(settings.home / "services.lock"):
            for path in [*settings.home.iterdir(), *(CHECKOUT / "dagster_home").iterdir()]:
                if path.name not in KEPT | {"dagster.yaml"}:
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    except HeadraceError as error:
        say(str(error), error=True)
        raise SystemExit(1) from None
    for name in (".pytest_cache", ".ruff_cache", ".hypothesis"):
        shutil.rmtree(CHECKOUT / name, ignore_errors=True)


if __name__ == "__main__":
    main()
