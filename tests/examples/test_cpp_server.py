"""The example server: every route, bad bodies, overload and metrics. Needs build/cpp/release."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from cpp_library import KERNELS_FILE
from cpp_server import PATIENCE, SERVER, Server, rename_first, serving
from markdown_pages import text

from runtime import Pipeline
from runtime.items import ItemIndex

pytestmark = pytest.mark.cpp


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


def test_the_bodies_of_the_page_are_answered(server: Server) -> None:
    bodies = re.findall(r"--data '(\{.*\})' localhost:\d+(/\S+)", text("docs/cpp.md"))
    assert bodies
    for body, route in bodies:
        code, found = server.ask("POST", route, json.loads(body))
        assert (code, len(found["answers"])) == (200, len(json.loads(body)["requests"]))


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
        ('{"\\ud800": 1}', "expected a text as key"),
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
    assert re.search(r"expected .+\. [A-Z].+\.$", answer["error"])
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
    assert re.search(r"has 500 requests, expected 1 \.\. \d+, .+\. Split the list\.$", answer["error"])


def test_none_of_too_many_requests_is_read(server: Server) -> None:
    code, answer = server.ask("POST", "/v1/recommend", {"requests": [{"now": "yesterday"}] * 500})
    assert (code, set(answer)) == (400, {"error"})
    assert "500 requests" in answer["error"]


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


def test_whoever_has_read_an_answer_finds_it_counted(tiny_bundle: Path) -> None:
    with serving(tiny_bundle, "--threads", "1") as server:
        name = 'oneranker_requests_total{code="200"}'
        found = [numbers(server)[name] for _ in range(300)]
    assert found == [found[0] + n for n in range(300)]


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


def test_a_bad_bundle_is_an_exit_with_3_and_one_line_that_says_why(tmp_path: Path) -> None:
    with serving(tmp_path, ready=False) as server:
        assert server.process.wait(PATIENCE) == 3
        assert server.process.stderr is not None
        assert "manifest.json" in server.process.stderr.read()


def test_kernels_serve_the_same_items_and_absent_ones_are_an_exit_that_names_the_file(
    tiny_bundle: Path, requests: list[dict[str, Any]]
) -> None:
    with serving(tiny_bundle) as plain, serving(tiny_bundle, "--kernels", str(KERNELS_FILE)) as fused:
        for request in requests:
            (code, expected), (_, found) = (one.ask("POST", "/v1/recommend", request) for one in (plain, fused))
            assert code == 200
            assert_same(found, expected)
    with serving(tiny_bundle, "--kernels", "absent.so", ready=False) as server:
        assert server.process.wait(PATIENCE) == 1
        assert server.process.stderr is not None
        assert "absent.so" in server.process.stderr.read()


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--bundle"],
        ["--kernels", "", "--bundle", "b"],
        ["--port", "70000", "--bundle", "b"],
        ["--threads", "x", "--bundle", "b"],
        ["--no"],
    ],
)
def test_a_wrong_command_line_is_an_exit_with_2_and_the_usage(words: list[str]) -> None:
    done = subprocess.run([str(SERVER), *words], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: oneranker_server" in done.stderr
