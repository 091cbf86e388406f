"""Drives a Chromium without a window: open a page from a file, ask it things in JavaScript, press keys, take pictures.

    with Browser() as browser:
        browser.open(Path("compare.html").absolute().as_uri())
        browser.wait("document.querySelectorAll('tbody tr').length === 9")
        browser.picture(Path("compare.png"))

It speaks the DevTools protocol over a pair of pipes (`--remote-debugging-pipe`): JSON messages ended by a zero byte, no port, no
package beside Python's own. What the page's console says and what its content security policy blocks is kept in `said`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--mute-audio",
    "--no-first-run", "--disable-extensions", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--force-device-scale-factor=1", "--remote-debugging-pipe",
)  # fmt: skip

WIRED = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""  # the browser reads its pipe at descriptor 3 and writes at 4


def chromium() -> str | None:
    """Where the browser is; None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One browser with one page.

    Args:
        width, height: of the page, in pixels.
        dark: whether the page is told that dark colours are preferred.
        patience: seconds to wait for an answer or a condition.
    """

    def __init__(self, width: int = 1280, height: int = 900, *, dark: bool = False, patience: float = 60.0) -> None:
        self.size, self.dark, self.patience = (width, height), dark, patience
        self.said: list[str] = []
        self._number, self._buffer, self._answers = 0, b"", {}  # type: ignore[var-annotated]

    def __enter__(self) -> Browser:
        found = chromium()
        if found is None:
            raise FileNotFoundError(f"no browser here; one of {', '.join(NAMES)} must be on the path")
        self._home = tempfile.mkdtemp(prefix="parallax-browser-")
        (its_in, self._to), (self._from, its_out) = os.pipe(), os.pipe()
        command = [
            found,
            *SWITCHES,
            f"--user-data-dir={self._home}",
            f"--window-size={self.size[0]},{self.size[1]}",
            "about:blank",
        ]
        wired = [sys.executable, "-ISc", WIRED, str(its_in), str(its_out), *command]
        self._log = open(Path(self._home) / "log", "wb")
        self._process = subprocess.Popen(
            wired, pass_fds=(its_in, its_out), stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
            start_new_session=True,
        )  # fmt: skip
        os.close(its_in), os.close(its_out)
        self._session = ""
        target = next(each for each in self._ask("Target.getTargets")["targetInfos"] if each["type"] == "page")
        self._session = self._ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._ask(f"{domain}.enable")
        self.resize(*self.size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if self.dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, TimeoutError, RuntimeError):
            self._session, self.patience = "", 5.0
            self._ask("Browser.close")
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for end in (self._to, self._from):
            os.close(end)
        self._log.close()
        shutil.rmtree(self._home, ignore_errors=True)

    def open(self, address: str) -> None:
        """Go to a page and wait until it has loaded."""
        self._ask("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression, as plain data. Promises are waited for."""
        answer = self._ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            thrown = answer["exceptionDetails"]
            raise RuntimeError(f"{expression}: {thrown.get('exception', {}).get('description') or thrown['text']}")
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        """Until a JavaScript expression is true. Raises TimeoutError when it does not become so."""
        began, pause = time.monotonic(), 0.002
        while not self.ask(condition):
            if time.monotonic() - began > self.patience:
                raise TimeoutError(
                    f"{condition} did not become true in {self.patience:g} s; the page said {self.said[-5:]}"
                )
            time.sleep(pause)
            pause = min(2 * pause, 0.1)

    def type(self, text: str) -> None:
        """Put text where the focus is."""
        self._ask("Input.insertText", text=text)

    def press(self, key: str, times: int = 1) -> None:
        """Press a key by its name: `ArrowDown`, `Enter`, `Tab`, `/`."""
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "PageUp": 33, "PageDown": 34, "End": 35, "Home": 36,
                 "ArrowUp": 38, "ArrowDown": 40}  # fmt: skip
        for _ in range(times):
            common = {"key": key, "code": key, "windowsVirtualKeyCode": codes.get(key, ord(key[0].upper()))}
            self._ask("Input.dispatchKeyEvent", type="keyDown", **common, **text)
            self._ask("Input.dispatchKeyEvent", type="keyUp", **common)

    def click(self, selector: str) -> None:
        """Click in the middle of the first element that fits a CSS selector, where it lies on the screen."""
        place = self.ask(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}});"
            " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._ask("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def resize(self, width: int, height: int) -> None:
        self._ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def picture(self, path: Path, *, whole: bool = False) -> Path:
        """Write a PNG of what is in view, or of the whole page."""
        shot = self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(shot["data"]))
        return path

    def memory(self) -> int:
        """Bytes of the page's JavaScript heap."""
        return int(self._ask("Runtime.getHeapUsage")["usedSize"])

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        began = time.monotonic()
        while number not in self._answers:
            left = self.patience - (time.monotonic() - began)
            if left <= 0 or not select.select([self._from], [], [], left)[0]:
                raise TimeoutError(f"the browser did not answer {method} in {self.patience:g} s")
            self._read()
        answer = self._answers.pop(number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error'].get('message')}")
        return dict(answer.get("result") or {})

    def _read(self) -> None:
        data = os.read(self._from, 1 << 20)
        if not data:
            raise RuntimeError(f"the browser ended: {(Path(self._home) / 'log').read_text(errors='replace')[-500:]}")
        *whole, self._buffer = (self._buffer + data).split(b"\0")
        for text in whole:
            message = json.loads(text)
            if "id" in message:
                self._answers[message["id"]] = message
            elif message.get("method") == "Runtime.exceptionThrown":
                self.said.append(str(message["params"]["exceptionDetails"].get("exception", {}).get("description")))
            elif message.get("method") == "Log.entryAdded":
                self.said.append(str(message["params"]["entry"]["text"]))
            elif message.get("method") == "Runtime.consoleAPICalled":
                self.said.append(" ".join(str(each.get("value")) for each in message["params"]["args"]))
