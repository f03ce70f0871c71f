"""A real browser: Chromium, driven by playwright, with everything a page says or asks for on record."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage")  # fmt: skip


class Visit:
    """A page of its own with a context of its own, and what went wrong on it."""

    def __init__(self, page):
        self.page = page
        self.troubles: list[str] = []
        """Console messages, errors, dialogs, requests to anywhere but files."""
        page.on("console", lambda message: self.troubles.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: self.troubles.append(f"error: {error}"))
        page.on("dialog", self._dialog)
        page.on("request", self._request)

    def _dialog(self, dialog) -> None:
        self.troubles.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _request(self, request) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.troubles.append(f"request: {request.url}")

    def open(self, site, address: str) -> "Visit":
        """Go to a page of the site at `site`, a directory, and wait until it is drawn."""
        self.page.goto("about:blank")
        self.page.goto(f"file://{site}/{address}")
        self.page.wait_for_selector("body[data-ready]", timeout=15_000)
        return self

    def go(self, hash: str) -> "Visit":
        """Another address of the same page."""
        before = self.page.evaluate("document.body.dataset.ready")
        self.page.evaluate("hash => { location.hash = hash }", hash)
        self.page.wait_for_function("before => document.body.dataset.ready !== before", arg=before, timeout=15_000)
        return self


@contextmanager
def chromium() -> Iterator:
    """`with chromium() as visit: visit(width=390).open(site, "index.html")`. Skips where there is no Chromium, or fails
    with MONOSEM_REQUIRE_CHROMIUM=1.

    Inside, an event loop of playwright's runs in this thread, so keep it to one test module.
    """
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        reason = "no chromium: install the package chromium"
        if os.environ.get("MONOSEM_REQUIRE_CHROMIUM") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, headless=True, args=list(ARGUMENTS))

        def visit(width: int = 1440, height: int = 1000, **options) -> Visit:
            context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True, **options)
            return Visit(context.new_page())

        yield visit
        browser.close()
