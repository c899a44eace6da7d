"""The built example server as a process: starts it, speaks HTTP to it, stops it."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RELEASE = Path(__file__).resolve().parents[2] / "build" / "cpp" / "release"
SERVER = RELEASE / "examples" / "oneranker_server"
PATIENCE = 60  # seconds, for what takes a moment on a busy machine


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen[str]
    port: int

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and body; JSON is read where the answer is JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body if isinstance(body, str | bytes | None) else json.dumps(body))
            answer = connection.getresponse()
            text = answer.read().decode()
            is_json = answer.getheader("Content-Type") == "application/json"
            return answer.status, json.loads(text) if is_json else text
        finally:
            connection.close()

    def wait_until_ready(self) -> None:
        """Until it says so."""
        until = time.monotonic() + PATIENCE
        while self.ask("GET", "/v2/health/ready")[0] != 200:
            assert self.process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)

    def stop(self) -> int:
        """Ask it to stop; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


@contextmanager
def serving(bundle: Path, *flags: str, ready: bool = True) -> Iterator[Server]:
    """A server on a free port, ended whatever happens."""
    words = [str(SERVER), "--bundle", str(bundle), "--port", "0", "--device", "cpu", *flags]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            server = Server(process, json.loads(process.stdout.readline())["port"])
            if ready:
                server.wait_until_ready()
            yield server
        finally:
            process.kill()
