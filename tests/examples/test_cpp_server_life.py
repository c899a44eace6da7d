"""The example server: item indexes swapped while it serves, and how it stops. Needs build/cpp/release."""

from __future__ import annotations

import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cpp_server import PATIENCE, Server, delist_first, rename_first, serving

pytestmark = pytest.mark.cpp


def test_items_are_swapped_only_where_the_server_was_told_that_they_may(server: Server, tiny_bundle: Path) -> None:
    code, answer = server.ask("POST", "/v1/items", {"folder": str(tiny_bundle / "items")})
    assert code == 403
    assert "--allow-swap" in answer["error"]


def test_a_swapped_index_answers_and_one_that_does_not_fit_is_refused(
    tiny_bundle: Path, tmp_path: Path, requests: list[dict[str, Any]]
) -> None:
    delisted, version = delist_first(tiny_bundle / "items", tmp_path / "items")
    with serving(tiny_bundle, "--threads", "2", "--allow-swap") as server:
        for body in ('{"folder": 3}', "{}", '{"folder": "' + str(tmp_path / "nothing") + '"}'):
            assert server.ask("POST", "/v1/items", body)[0] == 400
        old = server.ask("POST", "/v1/recommend", requests[0])[1]["index_version"]
        code, answer = server.ask("POST", "/v1/items", {"folder": str(tmp_path / "items")})
        assert (code, answer) == (200, {"index_version": version})
        answer = server.ask("POST", "/v1/recommend", requests[0])[1]
    assert old != answer["index_version"] == version
    assert delisted not in {item["id"] for item in answer["items"]}


def test_an_index_that_was_replaced_is_let_go_by_every_idle_worker(
    tiny_bundle: Path, tmp_path: Path, requests: list[dict[str, Any]]
) -> None:
    with serving(tiny_bundle, "--threads", "4", "--allow-swap") as server, ThreadPoolExecutor(8) as clients:
        for turn in range(4):
            rename_first(tiny_bundle / "items", tmp_path / str(turn), f"renamed {turn}")
            found = clients.map(lambda _: server.ask("POST", "/v1/recommend", requests[3])[0], range(40))
            assert set(found) == {200}
            assert server.ask("POST", "/v1/items", {"folder": str(tmp_path / str(turn))})[0] == 200
        assert server.ask("POST", "/v1/recommend", requests[3])[0] == 200
        lines = Path(f"/proc/{server.process.pid}/maps").read_text().splitlines()
    mapped = {line.split()[-1] for line in lines if "items.safetensors" in line}
    assert str(tmp_path / "3") in {str(Path(path).parent) for path in mapped}
    assert len(mapped) <= 2


def test_a_stop_while_pipelines_warm_up_is_an_exit_with_0_before_all_are_warm(tiny_bundle: Path) -> None:
    with serving(tiny_bundle, "--threads", "1000", ready=False) as server:
        time.sleep(0.2)
        begin = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begin < 20


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT], ids=lambda stop: stop.name)
def test_a_stop_finishes_what_is_in_flight_and_exits_with_0(
    tiny_bundle: Path, requests: list[dict[str, Any]], stop: signal.Signals
) -> None:
    with serving(tiny_bundle, "--threads", "2") as server:
        answered: list[int] = []
        refused: list[int] = []
        broken: list[Exception] = []
        under_way = threading.Event()

        def keep_asking() -> None:
            while not refused:
                try:
                    code, answer = server.ask("POST", "/v1/recommend", requests[3])
                    (answered if code == 200 and answer["items"] else refused).append(code)
                except ConnectionRefusedError:
                    refused.append(0)
                except (ConnectionError, TimeoutError) as error:  # accepted by the kernel, not yet by the server
                    refused.append(0)
                    broken.append(error)
                if len(answered) > 20:
                    under_way.set()

        clients = [threading.Thread(target=keep_asking) for _ in range(8)]
        for client in clients:
            client.start()
        assert under_way.wait(PATIENCE)
        server.process.send_signal(stop)
        assert server.process.wait(PATIENCE) == 0
        for client in clients:
            client.join(PATIENCE)
        assert set(refused) <= {0, 503}
        assert not [error for error in broken if not isinstance(error, ConnectionResetError)]
        assert server.process.stderr is not None
        assert server.process.stderr.read() == ""


def test_a_body_half_sent_when_the_stop_comes_still_gets_its_answer(tiny_bundle: Path) -> None:
    with serving(tiny_bundle, "--threads", "1") as server:
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
            connection.sendall(b"POST /v1/recommend HTTP/1.1\r\nHost: here\r\nContent-Length: 10\r\n\r\n{")
            assert server.ask("GET", "/v2/health/live")[0] == 200
            server.process.send_signal(signal.SIGTERM)
            while refuses_no_connection(server.port):
                assert server.process.poll() is None
            connection.sendall(b'"now": 1}')
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 503")
        assert answer.endswith(b"}")
        assert server.process.wait(PATIENCE) == 0


def refuses_no_connection(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), PATIENCE).close()
    except ConnectionRefusedError:
        return False
    return True
