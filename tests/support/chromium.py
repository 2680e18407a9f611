"""Debian's Chromium, driven by playwright, for tests of what a browser shows."""

import contextlib
import io
import shutil
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

playwright = pytest.importorskip(
    "playwright.sync_api", reason="driving a browser needs playwright: pip install -r tests/requirement.txt"
)
CHROMIUM = shutil.which("chromium")
MARKS = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
]
# Without a GPU, and without what Chromium would ask the network.
FLAGS = ["--no-sandbox", "--enable-unsafe-swiftshader", "--use-gl=angle", "--use-angle=swiftshader", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]  # fmt: skip


@contextlib.contextmanager
def launched() -> Iterator[playwright.Browser]:
    """Yield a browser."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def pixels_of(screenshot: bytes) -> np.ndarray:
    """Return the pixels (h, w, 3) of a screenshot."""
    with Image.open(io.BytesIO(screenshot)) as image:
        return np.asarray(image.convert("RGB"))
