"""The example server: every route, bad bodies, overload, swap and graceful stop. Needs build/cpp/release."""

from __future__ import annotations

import http.client
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from cpp_server import PATIENCE, SERVER, Server, serving

from runtime import Pipeline
from runtime.items import ItemIndex

pytestmark = pytest.mark.cpp


@pytest.fixture(scope="module")
def server(tiny_bundle: Path) -> Iterator[Server]:
    with serving(tiny_bundle, "--threads", "2", "--max-body", "100000") as server:
        yield server


@pytest.fixture(scope="module")
def requests(tiny_bundle: Path) -> list[dict[str, Any]]:
    index = ItemIndex.read(tiny_bundle / "items")
    return [
        {
            "now": 1_700_000_000,
            "events": [
                {"item": index.id(n % len(index)), "time": 1_699_000_000 + n, "group": f"g{n}"} for n in range(length)
            ],
        }
        for length in (1, 3, 7, 20)
    ]


def test_it_answers_one_request_as_python_does_with_the_same_words(
    server: Server, tiny_bundle: Path, requests: list[dict[str, Any]]
) -> None:
    with Pipeline.load(tiny_bundle, threads=1) as pipeline:
        expected = [asdict(pipeline.recommend([request], 10)[0]) for request in requests]
    for request, answer in zip(requests, expected, strict=True):
        code, found = server.ask("POST", "/v1/recommend", request)
        assert (code, found.keys()) == (200, answer.keys())
        assert_same(found, answer)


def test_it_answers_a_list_as_python_answers_a_batch(
    server: Server, tiny_bundle: Path, requests: list[dict[str, Any]]
) -> None:
    with Pipeline.load(tiny_bundle, threads=1) as pipeline:
        two = requests[: pipeline.max_batch][:2]
        expected = [asdict(answer) for answer in pipeline.recommend(two, 3)]
    code, found = server.ask("POST", "/v1/recommend", {"requests": two, "top_k": 3})
    assert (code, set(found)) == (200, {"answers"})
    for one, answer in zip(found["answers"], expected, strict=True):
        assert_same(one, answer)


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    close = {"score": pytest.approx, "logp": pytest.approx}
    items = [
        {key: close[key](value, abs=1e-5) if key in close else value for key, value in item.items()}
        for item in expected["items"]
    ]
    assert found == expected | {"items": items}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        ("[1]", "is array"),
        (b"\xff\xfe", "not JSON"),
        ('{"requests": []}', "size 0"),
        ('{"requests": 3}', "is number"),
        ('{"requests": [{}], "top_k": 0}', "top_k is 0"),
        ('{"requests": [{}], "top_k": "many"}', "top_k is"),
        ('{"requests": [{}], "else": 0}', "'else'"),
        ("[" * 50_000, "is array"),
        ('{"requests": ' + "[" * 50_000, "nested deeper"),
        ('{"requests": [{"now": 1, "events": [' + "[" * 40 + "]" * 40 + "]}]}", "nested deeper"),
        ('{"requests": [{}], "top_k": 1} x', "not JSON"),
        ('{"requests": [{}] "top_k": 1}', "not JSON"),
        ('{"requests": [{}, ]}', "not JSON"),
        ('{"requests": [{"now": 1}', "not JSON"),
        ('{"requests": [{"now": 1}}', ""),
        ('{"requests": [{} {}]}', ""),
        ('{"requests": [{}], "top_k": 1 2}', "not JSON"),
        ('{"requests: [{}]}', "not JSON"),
        ('{"requests"\0: [{}]}', "not JSON"),
        ('{"events": 3}', "events"),
        ('{"now": "yesterday"}', "now"),
    ],
)
def test_a_malformed_body_is_told_what_is_wrong_and_the_server_lives_on(
    server: Server, body: str | bytes, says: str, requests: list[dict[str, Any]]
) -> None:
    code, answer = server.ask("POST", "/v1/recommend", body)
    assert code == 400
    assert says in answer["error"]
    assert server.ask("POST", "/v1/recommend", requests[0])[0] == 200


@pytest.mark.parametrize(
    "request_text",
    [
        '{"now": 1700000000, "events": [{"item": 12345678901234567890123, "time": 1}]}',
        '{"now": 1e400}',
        '{"now": 1.7e9, "events": [{"item": "a, ]} \\\\", "time": 1}, {"item": "\\u00e9\\""}],'
        ' "context": {"x": [1e400, "{"]}}',
    ],
)
def test_a_request_means_the_same_alone_and_in_a_list(server: Server, request_text: str) -> None:
    code, alone = server.ask("POST", "/v1/recommend", request_text)
    code_in_list, listed = server.ask("POST", "/v1/recommend", f' {{"requests" : [ {request_text} ] , "top_k":10}} ')
    assert code == code_in_list
    if code == 200:
        assert_same(listed["answers"][0], alone)
    else:
        assert listed == {"error": alone["error"], "position": 0}


def test_an_item_whose_id_is_a_number_of_many_digits_is_found_alone_and_in_a_list(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    number = 12345678901234567890123
    rename_first(tiny_bundle / "items", tmp_path / "items", str(number))
    request = {"now": 1_700_000_000, "events": [{"item": number, "time": 1_600_000_000}]}
    with serving(tiny_bundle, "--threads", "1", "--allow-swap") as server:
        assert server.ask("POST", "/v1/items", {"folder": str(tmp_path / "items")})[0] == 200
        alone = server.ask("POST", "/v1/recommend", request)[1]
        code, answer = server.ask("POST", "/v1/recommend", {"requests": [request]})
    assert code == 200, answer
    [listed] = answer["answers"]
    assert alone["unknown_items"] == listed["unknown_items"] == 0


def test_a_malformed_request_of_a_batch_is_named_by_its_position(
    server: Server, requests: list[dict[str, Any]]
) -> None:
    code, answer = server.ask("POST", "/v1/recommend", {"requests": [requests[0], {"now": "yesterday"}]})
    assert (code, answer["position"]) == (400, 1)


def test_more_requests_than_the_bundle_takes_are_refused_with_the_limit(
    server: Server, requests: list[dict[str, Any]]
) -> None:
    code, answer = server.ask("POST", "/v1/recommend", {"requests": [requests[0]] * 500})
    assert code == 400
    assert "500" in answer["error"]


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


def test_what_is_no_route_is_not_found_and_no_http_ends_nothing(server: Server) -> None:
    assert server.ask("GET", "/v1/recommend")[0] == 404
    assert server.ask("GET", "/etc/passwd")[0] == 404
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as connection:
        connection.sendall(b"\x00\x01\x02 nonsense\r\n\r\n")
        connection.recv(1000)
    assert server.ask("GET", "/v2/health/live")[0] == 200


def test_twenty_clients_at_once_get_the_answers_of_one(server: Server, requests: list[dict[str, Any]]) -> None:
    alone = [server.ask("POST", "/v1/recommend", request) for request in requests]
    with ThreadPoolExecutor(20) as clients:
        found = list(clients.map(lambda n: server.ask("POST", "/v1/recommend", requests[n % 4]), range(200)))
    assert [code for code, _ in found] == [200] * 200
    for n, (_, answer) in enumerate(found):
        assert_same(answer, alone[n % 4][1])


def test_metrics_count_what_was_asked(tiny_bundle: Path, requests: list[dict[str, Any]]) -> None:
    with serving(tiny_bundle, "--threads", "1") as server:
        before = numbers(server)
        for body in (requests[0], requests[1], "{"):
            server.ask("POST", "/v1/recommend", body)
        after = numbers(server)
        version = ItemIndex.read(tiny_bundle / "items").version
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown['oneranker_requests_total{code="400"}'] == 1
    assert grown['oneranker_requests_total{code="200"}'] == 3  # two answers, and the first reading itself
    assert grown["oneranker_recommend_seconds_count"] == 3
    assert after['oneranker_recommend_seconds_bucket{le="+Inf"}'] == after["oneranker_recommend_seconds_count"]
    buckets = [value for name, value in after.items() if "_bucket" in name]
    assert buckets == sorted(buckets)
    assert after["oneranker_recommend_seconds_sum"] > 0
    assert after["oneranker_in_flight"] == 0
    assert after[f'oneranker_index_info{{version="{version}"}}'] == 1


def numbers(server: Server) -> dict[str, float]:
    code, text = server.ask("GET", "/metrics")
    assert code == 200
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r'\w+(\{\w+="[^"]*"\})? \S+', line) for line in lines)
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_where_every_pipeline_is_busy_and_the_queue_full_it_says_so(
    tiny_bundle: Path, requests: list[dict[str, Any]]
) -> None:
    with serving(tiny_bundle, "--threads", "1", "--queue", "0") as server, ThreadPoolExecutor(20) as clients:
        codes = {200}
        for _ in range(20):  # rounds until two requests met
            found = clients.map(lambda _: server.ask("POST", "/v1/recommend", requests[3]), range(100))
            codes |= {code for code, _ in found}
            if codes != {200}:
                break
        assert codes == {200, 503}
        assert server.ask("POST", "/v1/recommend", requests[0])[0] == 200


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


def test_a_bad_bundle_is_an_exit_with_3_and_one_line_that_says_why(tmp_path: Path) -> None:
    with serving(tmp_path, ready=False) as server:
        assert server.process.wait(PATIENCE) == 3
        assert server.process.stderr is not None
        assert "manifest.json" in server.process.stderr.read()


@pytest.mark.parametrize(
    "words", [[], ["--bundle"], ["--port", "70000", "--bundle", "b"], ["--threads", "x", "--bundle", "b"], ["--no"]]
)
def test_a_wrong_command_line_is_an_exit_with_2_and_the_usage(words: list[str]) -> None:
    done = subprocess.run([str(SERVER), *words], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: oneranker_server" in done.stderr
