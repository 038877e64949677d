"""A headless Chromium without network, driven through a pipe."""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
#: Nothing is looked up, and nothing is kept.
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--no-first-run", "--hide-scrollbars", "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--remote-debugging-pipe", "about:blank",
)  # fmt: skip
_KEYS = {
    "Enter": ("\r", 13),
    "Tab": ("", 9),
    "Escape": ("", 27),
    "ArrowRight": ("", 39),
}


def find() -> str:
    """The program; skips the test where there is none."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if not found:
        pytest.skip("no browser: apt-get install chromium")
    return found


class Browser:
    """One page of one browser.

    Args:
        profile: folder of its own.

    """

    def __init__(self, profile: Path) -> None:
        (theirs, self.write), (self.read, answers) = os.pipe(), os.pipe()
        command = [find(), f"--user-data-dir={profile}", *_FLAGS]
        # The browser reads from 3 and writes to 4.
        shell = 'exec "${@:3}" 3<&"$1" 4>&"$2"'
        self.process = subprocess.Popen(
            ["bash", "-c", shell, "browser", str(theirs), str(answers), *command],
            pass_fds=(theirs, answers),
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(answers)
        self.events: list[dict[str, Any]] = []
        self.rest, self.count, self.session = b"", 0, ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        found = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = found["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log", "Accessibility"):
            self.call(f"{domain}.enable")
        offline = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self.call("Network.emulateNetworkConditions", offline=True, **offline)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.read)
        os.close(self.write)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            more = os.read(self.read, 2**20)
            if not more:
                said = f"the browser ended with {self.process.wait()}"
                # One that never began is no fault of the page's.
                pytest.fail(said) if self.session else pytest.skip(said)
            self.rest += more
        message, self.rest = self.rest.split(b"\0", 1)
        found: dict[str, Any] = json.loads(message)
        return found

    def call(self, method: str, **given: Any) -> Any:
        """A command of the DevTools protocol, and its answer."""
        self.count += 1
        session = {"sessionId": self.session} if self.session else {}
        asked = {"id": self.count, "method": method, "params": given, **session}
        os.write(self.write, json.dumps(asked).encode() + b"\0")
        while (message := self._next()).get("id") != self.count:
            self.events.append(message)
        assert "error" not in message, (method, message)
        return message["result"]

    def of(self, method: str) -> list[Any]:
        """What has happened of one kind."""
        return [one["params"] for one in self.events if one["method"] == method]

    def open(self, path: Path) -> None:
        """Show a file, to its end."""
        self.call("Page.navigate", url=path.as_uri())
        while not self.of("Page.loadEventFired"):
            self.events.append(self._next())

    def js(self, code: str) -> Any:
        """The value of an expression."""
        found = self.call("Runtime.evaluate", expression=code, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """A key, down and up."""
        text, code = _KEYS[key]
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if text and kind == "keyDown" else {}
            self.call(
                "Input.dispatchKeyEvent",
                type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more,
            )  # fmt: skip

    def prefer(self, scheme: str) -> None:
        """Light or dark."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def size(self, width: int, height: int = 900) -> None:
        """Of the window."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        self.call("Emulation.setDeviceMetricsOverride", mobile=False, **size)

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))
