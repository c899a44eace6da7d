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

from runtime.items import ItemIndex

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


def delist_first(old_folder: Path, new_folder: Path) -> tuple[str, str]:
    """The same catalogue without its first item; that item and the new version."""
    old = ItemIndex.read(old_folder)
    listed = old.listed.copy()
    listed[0] = False
    return old.id(0), write_like(old, new_folder, [old.id(row) for row in range(len(old))], listed)


def rename_first(old_folder: Path, new_folder: Path, name: str) -> None:
    """The same catalogue, its first item under another id."""
    old = ItemIndex.read(old_folder)
    write_like(old, new_folder, [name, *(old.id(row) for row in range(1, len(old)))], old.listed)


def write_like(old: ItemIndex, new_folder: Path, ids: list[str], listed: Any) -> str:
    """The new version."""
    from export.item_index import write_item_index

    write_item_index(
        new_folder,
        ids=ids,
        names=[old.name(row) for row in range(len(old))],
        listed=listed,
        **{name: old.tables[name] for name in ("codes", "codebooks", "anchors", "item_table", "item_fields")},
    )
    return ItemIndex.read(new_folder).version
