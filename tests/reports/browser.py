"""A headless Chromium that tests steer by the WebDriver protocol, with nothing but the standard library."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TOP = 60  # seconds that one request may take


@dataclass(frozen=True)
class Browser:
    """A session; `address` is its own of the driver."""

    address: str

    def ask(self, path: str, **body: Any) -> Any:
        """One command; the value that it gives."""
        return asked(f"{self.address}/{path}", body)

    def open(self, page: Path) -> None:
        self.ask("url", url=page.as_uri())

    def run(self, script: str) -> Any:
        """What a script of the test returns."""
        return self.ask("execute/sync", script=script, args=[])

    def devtools(self, command: str, **options: Any) -> Any:
        """A command of Chromium's own protocol."""
        return self.ask("goog/cdp/execute", cmd=command, params=options)

    def press(self, *keys: str) -> None:
        """Keys, one after the other."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.ask("actions", actions=[{"type": "key", "id": "keyboard", "actions": actions}])

    def complaints(self) -> list[Any]:
        """What the console says since it was last asked."""
        return self.ask("se/log", type="browser")

    def resize(self, width: int, *, dark: bool = False, printed: bool = False) -> None:
        """A screen of so many pixels, light or dark, or paper."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", media="print" if printed else "", features=[scheme])

    def picture(self, path: Path, height: int) -> None:
        """The page from its top as a PNG."""
        clip = {"x": 0, "y": 0, "width": self.run("return innerWidth"), "height": height, "scale": 1}
        shown = self.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shown["data"]))


def asked(address: str, body: dict[str, Any] | None, method: str = "POST") -> Any:
    """The driver's answer to a request."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=TOP) as answer:
        return json.load(answer)["value"]


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A browser for one with-block; the test is skipped where none is installed."""
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    if driver is None or chromium is None:
        pytest.skip("needs chromedriver and chromium")
    process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        lines = (line for line in process.stdout if "started successfully on port" in line)
        place = f"http://127.0.0.1:{next(lines).rstrip().rstrip('.').rpartition(' ')[2]}"
        options = {"binary": chromium, "args": ["--headless", "--no-sandbox", "--disable-gpu"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = asked(f"{place}/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        try:
            yield Browser(f"{place}/session/{session}")
        finally:
            asked(f"{place}/session/{session}", None, "DELETE")
    finally:
        process.terminate()
        process.communicate()
