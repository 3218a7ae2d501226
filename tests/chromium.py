"""Headless Chromium over its debugging pipe, standard library only.

The pipe (file descriptors 3 and 4 of the browser) carries JSON messages that end in a zero byte.
"""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-extensions",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


def chromium_command():
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")


class Page:
    """One page of one browser; a context manager that ends the browser it started."""

    def __init__(self, width=1400, height=1000, *, timeout=90):
        self.timeout = timeout
        self.errors, self.requests = [], []
        self._number, self._buffer = 0, b""
        self._home = tempfile.mkdtemp(prefix="g3dvit-chromium-")
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()

        def place_pipes():  # the browser reads from 3 and writes to 4
            spare = os.dup(to_write)
            os.dup2(to_read, 3)
            os.dup2(spare, 4)

        self._process = subprocess.Popen(
            [chromium_command(), *FLAGS, f"--user-data-dir={self._home}", "about:blank"],
            pass_fds=(3, 4),
            preexec_fn=place_pipes,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        targets = self._send("Target.getTargets")["targetInfos"]
        target = next(t["targetId"] for t in targets if t["type"] == "page")
        attached = self._send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.resize(width, height)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError, TimeoutError):
            self._send("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        os.close(self._read)
        os.close(self._write)
        shutil.rmtree(self._home, ignore_errors=True)

    def open(self, path):
        self.send("Page.navigate", url=Path(path).resolve().as_uri())
        self.wait("document.documentElement?.dataset.ready")

    def resize(self, width, height):
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def run(self, expression):
        """Evaluate JavaScript (promises are awaited) and return its value."""
        answer = self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"], indent=1)[:1500])
        return answer["result"].get("value")

    def wait(self, expression):
        """Wait until JavaScript gives something true."""
        end = time.monotonic() + self.timeout
        while not (value := self.run(expression)):
            if time.monotonic() > end:
                raise TimeoutError(f"{expression} did not become true; errors: {self.errors}")
            time.sleep(0.1)
        return value

    def settle(self):
        """Wait until what was changed has been drawn."""
        self.run("new Promise(d => requestAnimationFrame(() => requestAnimationFrame(d)))")

    def picture(self, *, selector=None, full=False):
        """Return a PNG: of the window, of one element, or of the whole page."""
        self.settle()
        options = {"format": "png"}
        if selector:
            box = self.run(
                f"(() => {{const r = document.querySelector({json.dumps(selector)})"
                ".getBoundingClientRect(); return [r.x + scrollX, r.y + scrollY, r.width, "
                "r.height]})()"
            )
            options["clip"] = dict(zip(("x", "y", "width", "height"), box, strict=True), scale=1)
            options["captureBeyondViewport"] = True
        elif full:
            options["captureBeyondViewport"] = True
            size = self.run("[document.documentElement.scrollWidth, document.body.scrollHeight]")
            options["clip"] = {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}
        return base64.b64decode(self.send("Page.captureScreenshot", **options)["data"])

    def send(self, method, **parameters):
        return self._send(method, session=self._session, **parameters)

    def _send(self, method, session=None, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def _note(self, event):
        method, parameters = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"):
            self.errors.append(" ".join(str(a.get("value")) for a in parameters["args"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(parameters["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])

    def _receive(self):
        end = time.monotonic() + self.timeout
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0, end - time.monotonic()))
            if not ready:
                raise TimeoutError(f"the browser said nothing for {self.timeout} s")
            chunk = os.read(self._read, 1 << 20)
            if not chunk:
                raise OSError("the browser has gone")
            self._buffer += chunk
        text, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(text)
