"""A headless Chromium for the tests of the pages, and what they ask it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1180,900",
)  # fmt: skip
# The contrast of WCAG 2 between the colours of an element's text and of what it stands on.
CONTRAST = """
const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
const rgba = (color) => {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const light = (color) => rgba(color).slice(0, 3)
  .map((c) => c / 255).map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
const ground = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const color = getComputedStyle(e).backgroundColor;
    if (rgba(color)[3] === 255) return color;
  }
  return "white";
};
return [...document.querySelectorAll("main *")]
  .filter((e) => e.checkVisibility({visibilityProperty: true}) && !e.closest("svg") &&
    [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) && !e.matches(":disabled, .again"))
  .map((e) => {
    const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), `${e.tagName}.${e.className} ${e.textContent.trim().slice(0, 30)}`];
  }).filter(([ratio]) => ratio < 4.5);
"""


@contextmanager
def chromium(profile: Path, *logs: str) -> Iterator[Chrome]:
    """A browser with an empty profile that logs its console, and what else is named.

    Without one on this machine the tests are skipped.
    """
    browser, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("no Chromium with chromedriver is installed (Debian: apt install chromium chromium-driver)")
    options = ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", dict.fromkeys(("browser", *logs), "ALL"))
    started = Chrome(options=options, service=Service(driver))
    try:
        yield started
    finally:
        started.quit()


def opened(browser: Chrome, path: Path, *, width: int = 1180, scheme: str = "light") -> Chrome:
    """The browser with a page of the disk, at a width in CSS pixels and in a colour scheme."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    dress(browser, scheme)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(path.as_uri())
    return browser


def dress(browser: Chrome, scheme: str) -> None:
    """Lets the page find that its reader prefers a colour scheme."""
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def complaints(browser: Chrome) -> list[str]:
    """What the console says, and which resources the page asked for that were not inside of it."""
    entries = browser.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)")
    said = [entry["message"] for entry in browser.get_log("browser")]
    return said + [name for name in entries if not name.startswith("data:")]


def low_contrast(browser: Chrome) -> list[tuple[float, str]]:
    """The texts whose contrast is below 4.5."""
    found: list[tuple[float, str]] = browser.execute_script(CONTRAST)
    return found


def overflow(browser: Chrome) -> int:
    """By how many pixels the page is wider than the window."""
    width: int = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    return width
