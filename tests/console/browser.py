"""A real browser for tests: Debian's Chromium, driven by Playwright. Without either, its tests are skipped."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.console.site import TOKEN, Site

ROOT = Path(__file__).resolve().parents[2]
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
JSQR = ROOT / "node_modules" / "jsqr" / "dist" / "jsQR.js"
SEEN_MS = 60_000.0
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")

READ_QR = """async (picture) => {
  const image = new Image()
  image.src = 'data:image/png;base64,' + picture
  await image.decode()
  const canvas = document.createElement('canvas')
  canvas.width = image.width; canvas.height = image.height
  const context = canvas.getContext('2d')
  context.drawImage(image, 0, 0)
  const pixels = context.getImageData(0, 0, image.width, image.height)
  return jsQR(pixels.data, image.width, image.height)?.data ?? null
}"""
SERIOUS = """async () => {
  const found = await axe.run(document, { resultTypes: ['violations'] })
  return found.violations.filter((each) => ['serious', 'critical'].includes(each.impact))
    .map((each) => `${each.id}: ${each.nodes.map((node) => node.target.join(' ')).slice(0, 3).join(', ')}`)
}"""


class Window:
    """One browser window with cookies of its own; remembers what a page should not have done."""

    def __init__(self, page: Any, site: Site) -> None:
        page.set_default_timeout(SEEN_MS)
        self.page = page
        self.site = site
        self.faults: list[str] = []
        page.on("dialog", self._dialog)
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("console", lambda told: self._told(told.type, told.text))
        page.on("request", lambda request: self._asked(request.url))

    async def _dialog(self, dialog: Any) -> None:
        self.faults.append(f"dialog: {dialog.message}")
        await dialog.dismiss()

    def _told(self, kind: str, text: str) -> None:
        if "Content Security Policy" in text or "Content-Security-Policy" in text:
            self.faults.append(f"{kind}: {text}")

    def _asked(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob", "about") and f"{parts.scheme}://{parts.netloc}" != self.site.address:
            self.faults.append(f"request: {url}")

    async def log_in(self) -> None:
        await self.page.goto(f"{self.site.address}/login")
        await self.page.fill("#token", TOKEN)
        await self.page.click("form[action='/login'] button")
        await self.page.wait_for_selector("header.top")

    async def open(self, path: str) -> None:
        await self.page.goto(f"{self.site.address}{self.site.base}/{path}")

    async def see(self, words: str) -> None:
        """Wait until these words can be seen."""
        await self.page.get_by_text(words).first.wait_for(state="visible")

    async def press(self, *keys: str) -> None:
        """Press these keys, once the page's script, which is deferred, has run: until then nobody hears them."""
        await self.page.wait_for_load_state("domcontentloaded")
        for key in keys:
            await self.page.keyboard.press(key)

    async def serious(self) -> Sequence[str]:
        """What axe-core finds serious on the page as it is."""
        await self.page.evaluate(AXE.read_text())
        found: list[str] = await self.page.evaluate(SERIOUS)
        return found


@asynccontextmanager
async def chromium() -> AsyncIterator[Any]:
    """A browser without a window."""
    playwright = pytest.importorskip("playwright.async_api", reason="Playwright is missing: `make setup`")
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("there is no Chromium: `make console-smoke` installs one where it can")
    sandbox = [] if os.geteuid() else ["--no-sandbox"]  # Chromium refuses to sandbox itself under root
    async with playwright.async_playwright() as running:
        browser = await running.chromium.launch(executable_path=program, args=sandbox)
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def window(browser: Any, site: Site, **wishes: Any) -> AsyncIterator[Window]:
    """A fresh window; at its end it must have run nobody's script and asked nobody else."""
    context = await browser.new_context(**{"locale": "en-GB"} | wishes)
    opened = Window(await context.new_page(), site)
    yield opened
    await context.close()
    assert opened.faults == []


async def read_qr(browser: Any, picture: bytes) -> str | None:
    """What a camera would read in a picture."""
    context = await browser.new_context()
    try:
        page = await context.new_page()
        await page.evaluate(JSQR.read_text())
        found: str | None = await page.evaluate(READ_QR, base64.b64encode(picture).decode())
        return found
    finally:
        await context.close()
