"""A headless Chromium over its own protocol: opens a page, says what its console said, asks and clicks, takes pictures."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
_PATIENCE = 120  # seconds; what takes longer hangs


class Browser:
    """One page of a browser of its own. `problems` are errors and warnings of the console so far, `asked` the URLs
    that it went to."""

    def __init__(self) -> None:
        from websocket import create_connection

        self._folder = tempfile.TemporaryDirectory(prefix="tss-browser-", ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            [
                str(CHROMIUM),
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--remote-debugging-port=0",
                "--remote-allow-origins=*",
                f"--user-data-dir={self._folder.name}",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-dev-shm-usage",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        port = self._port()
        self._socket = create_connection(f"ws://127.0.0.1:{port[0]}{port[1]}", timeout=_PATIENCE)
        self._number = 0
        self._session = ""
        self.problems: list[str] = []
        self.asked: list[str] = []
        self._events: list[str] = []
        targets = self._call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self._call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def _port(self) -> list[str]:
        file = Path(self._folder.name) / "DevToolsActivePort"
        until = time.monotonic() + _PATIENCE
        while not (file.exists() and len(file.read_text().split()) == 2):
            if time.monotonic() > until or self._process.poll() is not None:
                raise RuntimeError("the browser has not started")
            time.sleep(0.05)
        return file.read_text().split()

    def _call(self, method: str, **arguments: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": arguments}
        self._socket.send(json.dumps({**message, **({"sessionId": self._session} if self._session else {})}))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _note(self, event: dict[str, Any]) -> None:
        method, said = event.get("method", ""), event.get("params", {})
        self._events.append(method)
        if method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(said["exceptionDetails"])[:500])
        if method == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
            self.problems.append(json.dumps(said["args"])[:500])
        if method == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.problems.append(said["entry"]["text"])
        if method == "Network.requestWillBeSent":
            self.asked.append(said["request"]["url"])

    def open(self, path: Path, width: int = 1400, height: int = 900, *, scheme: str = "light") -> None:
        """Show a file in a window of this size, up to the end of its loading."""
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._call("Page.navigate", url=path.resolve().as_uri())
        self.until("document.readyState === 'complete' && location.protocol === 'file:'")

    def ask(self, expression: str) -> Any:
        """The value of an expression on the page."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:500])
        return answer["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until an expression holds."""
        end = time.monotonic() + _PATIENCE
        while not self.ask(f"Boolean({expression})"):
            if time.monotonic() > end:
                raise RuntimeError(f"never: {expression}; {self.problems}")
            time.sleep(0.05)

    def draw_all(self) -> int:
        """Have all charts drawn; how many there are."""
        self.ask("window.dispatchEvent(new Event('beforeprint'))")
        self.until("[...document.querySelectorAll('[data-chart]')].every(place => place.querySelector('svg'))")
        return int(self.ask("document.querySelectorAll('[data-chart] svg').length"))

    def picture(self, path: Path) -> None:
        """The whole page as PNG."""
        size = self._call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 12000), "scale": 1}
        data = self._call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        """End the browser."""
        self._socket.close()
        self._process.terminate()
        self._process.wait(_PATIENCE)
        self._folder.cleanup()
