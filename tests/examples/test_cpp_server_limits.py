"""The example server: requests that never end, are too large or come byte by byte. Needs build/cpp/release."""

from __future__ import annotations

import http.client
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cpp_server import PATIENCE, Server, serving

pytestmark = pytest.mark.cpp


def test_too_large_a_body_is_refused(server: Server) -> None:
    assert server.ask("POST", "/v1/recommend", "x" * 100_001)[0] == 413


CHUNKED = b"POST %s HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = {  # the head of a request, and what follows again and again
    "a chunked body": (CHUNKED % b"/v1/recommend", b"10000\r\n" + b"x" * 0x10000 + b"\r\n"),
    "a chunked body of an item index": (CHUNKED % b"/v1/items", b"10000\r\n" + b"x" * 0x10000 + b"\r\n"),
    "a chunked body of no route": (CHUNKED % b"/nowhere", b"10000\r\n" + b"x" * 0x10000 + b"\r\n"),
    "a chunk's size": (CHUNKED % b"/v1/recommend", b"0" * 0x10000),
    "a body of no length": (b"POST /v1/recommend HTTP/1.1\r\nHost: here\r\n\r\n", b"x" * 0x10000),
    "parts of a form": (
        b"POST /v1/recommend HTTP/1.1\r\nHost: here\r\nContent-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n",
        b"x" * 0x10000,
    ),
    "a header": (b"GET /v2/health/live HTTP/1.1\r\nHost: ", b"x" * 0x10000),
    "a request line": (b"GET /", b"x" * 0x10000),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_never_ends_is_cut_off_and_never_held_in_memory(server: Server, name: str) -> None:
    head, part = ENDLESS[name]
    before, sent = peak_memory(server), 0
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
        try:
            connection.sendall(head)
            for _ in range(1000):
                connection.sendall(part)
                sent += len(part)
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert sent < 1000 * len(part)
    assert peak_memory(server) - before < 16 << 20
    assert server.ask("GET", "/v2/health/live")[0] == 200


def peak_memory(server: Server) -> int:
    """Bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"^VmHWM:\s+(\d+) kB", status, re.M)[1]) << 10  # type: ignore[index]


@pytest.mark.parametrize("route", ["/v1/recommend", "/v1/items"])
def test_a_chunked_body_is_read_as_any_other_and_refused_where_it_is_too_large(server: Server, route: str) -> None:
    assert chunked(server, route, [b'{"now"', b": 1}"])[0] == (200 if route == "/v1/recommend" else 403)
    code, text = chunked(server, route, [b"x" * 20_000] * 6)
    assert code == 413
    assert b"100000 bytes" in text


def chunked(server: Server, route: str, parts: list[bytes]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    try:
        connection.request("POST", route, iter(parts), encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_a_form_is_refused_and_a_body_that_no_route_reads_is_no_second_request(server: Server) -> None:
    hidden = b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n"
    for head, code in (
        (b"POST /v1/recommend HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=b\r\n", 415),
        (b"GET /v2/health/live HTTP/1.1\r\n", 200),
    ):
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
            connection.sendall(head + b"Host: here\r\nContent-Length: %d\r\n\r\n" % len(hidden) + hidden)
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 %d" % code)
        assert answer.count(b"HTTP/1.1") == 1


SLOW_HEADS = {
    "a body": b"POST /v1/recommend HTTP/1.1\r\nHost: here\r\nContent-Length: 1000\r\n\r\n",
    "a chunk's size": CHUNKED % b"/v1/recommend",
    "a header": b"GET /v2/health/live HTTP/1.1\r\nX: ",
}


@pytest.mark.parametrize("name", SLOW_HEADS)
def test_a_client_that_sends_byte_by_byte_has_the_seconds_of_a_request_and_no_more(
    tiny_bundle: Path, name: str
) -> None:
    with serving(tiny_bundle, "--threads", "1", "--request-seconds", "2") as server:
        begin = time.monotonic()
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
            answer = trickle(connection, SLOW_HEADS[name])
        assert 1.5 < time.monotonic() - begin < 8
        assert answer.startswith(b"HTTP/1.1 408") or name == "a header"
        assert server.ask("GET", "/v2/health/live")[0] == 200


def trickle(connection: socket.socket, head: bytes) -> bytes:
    """Send a byte now and then until the server has answered or hung up."""
    connection.sendall(head)
    connection.settimeout(0.2)
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            connection.sendall(b"0")
            return connection.recv(4096)
        except TimeoutError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            return b""
    raise AssertionError("nothing ends this client")


@pytest.mark.parametrize("name", SLOW_HEADS)
def test_a_stop_waits_for_a_slow_client_no_longer_than_it_was_told(tiny_bundle: Path, name: str) -> None:
    with (
        serving(tiny_bundle, "--threads", "1", "--request-seconds", "3000", "--stop-seconds", "1") as server,
        socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection,
        ThreadPoolExecutor(1) as pool,
    ):
        client = pool.submit(trickle, connection, SLOW_HEADS[name])
        assert server.ask("GET", "/v2/health/live")[0] == 200
        time.sleep(0.5)  # its request has begun
        begin = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begin < 8
        client.result(PATIENCE)
