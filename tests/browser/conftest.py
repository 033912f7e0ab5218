"""Pages in Chromium, offline. A module of tests gives the `folder` that its pages lie in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from shutil import which

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from windows import DESKTOP

FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        path = which("chromium") or which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=path, args=[*FLAGS.split(), "--disable-sync"])
        yield browser
        browser.close()


@pytest.fixture
def first_page() -> str:
    """The page that is opened where a test names none."""
    return "report.html"


@pytest.fixture
def visit(browser, folder, first_page) -> Iterator[Callable[..., Page]]:
    """Opens a page offline; at the end of the test everything that it should not have done is an error."""
    contexts: list[BrowserContext] = []
    faults: list[str] = []

    def open_page(path: str = first_page, *, viewport: dict = DESKTOP, scheme: str = "light", touch: bool = False) -> Page:
        context = browser.new_context(offline=True, viewport=viewport, color_scheme=scheme, has_touch=touch, is_mobile=touch)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: faults.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: _allowed(request.url) or faults.append(f"request: {request.url}"))
        page.goto((folder / path).as_uri())
        page.wait_for_function("document.querySelectorAll('[data-view]:not([data-ready])').length === 0")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def _allowed(url: str) -> bool:
    return url.startswith(("file:", "data:", "blob:"))
