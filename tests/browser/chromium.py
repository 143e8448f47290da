"""The system's Chromium, driven by playwright, for what is looked at in a real browser."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

_NAMES = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome")


class Disappointed(Exception):
    """The browser does not show what somebody came for."""


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Raises: Disappointed: no Chromium is installed."""
    executable = next(filter(None, map(shutil.which, _NAMES)), None)
    if executable is None:
        raise Disappointed("No Chromium here; install one: apt-get install chromium-headless-shell.")
    with sync_playwright() as playwright:
        # Its sandbox needs user namespaces, which containers and root rarely have; we visit our own pages.
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()
