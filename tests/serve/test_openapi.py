"""The OpenAPI document: true of the server, and nothing that fits it makes the server fail."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode

from serving import Client, Server, said

POLLY = ("/say", "/count", "/look", "/norm", "/read", "/file", "/measure")
"""Verbs of the parrot that are asked anything: one for each kind of argument."""


def document(client: Any) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def test_each_verb_of_each_run_has_its_endpoint(client: Client) -> None:
    found = document(client())
    assert "/runs/{name}/{verb}" not in found["paths"]
    assert {
        "/runs/books/generate",
        "/runs/rents/predict",
        "/runs/polly/say",
        "/runs",
        "/fits",
        "/health",
    } <= set(found["paths"])
    generate = found["paths"]["/runs/books/generate"]["post"]
    content = generate["requestBody"]["content"]["application/json"]
    assert content["example"] == {"prompt": "It was the best of times.", "tokens": 40}
    schema = found["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
    assert (
        schema["properties"]["tokens"]["maximum"] == 4096
        and schema["additionalProperties"] is False
    )
    answers = generate["responses"]["200"]["content"]
    assert {"application/json", "text/event-stream", "text/plain"} <= set(answers)
    predict = found["paths"]["/runs/rents/predict"]["post"]["requestBody"]["content"]
    assert {
        "application/json",
        "multipart/form-data",
        "text/csv",
        "application/vnd.apache.arrow.stream",
    } <= set(predict)


def test_its_examples_are_answered(client: Client) -> None:
    http = client()
    asked = 0
    for path, methods in document(http)["paths"].items():
        _, _, name, verb = ("//" + path).rsplit("/", 3)
        # the data of these runs was in memory: they cannot be evaluated on it again; no example is a file of compress
        left_out = verb in ("evaluate", "export", "expand")
        if name not in ("books", "rents") or left_out or "post" not in methods:
            continue
        content = methods["post"]["requestBody"]["content"]["application/json"]
        answer = http.post(path, json=content["example"])
        assert answer.status_code == 200, (path, answer.text)
        asked += 1
    assert asked >= 5


def test_a_run_that_appears_is_in_the_document_when_it_is_next_asked_for(
    client: Client, runs: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    http = client(folder)
    assert not any(path.startswith("/runs/tales") for path in document(http)["paths"])
    shutil.copytree(runs / "books", folder / "tales")
    assert "/runs/tales/generate" in document(http)["paths"]
    assert http.post("/runs/tales/generate", json={"tokens": 2, "seed": 1}).status_code == 200


def test_docs_need_nothing_from_elsewhere(client: Client) -> None:
    http = client()
    page = http.get("/docs")
    assert (
        "curl -s http://localhost/runs/books/generate" in page.text
        and "most tokens to add" in page.text
    )
    assert "<script" not in page.text and "src=" not in page.text and "@import" not in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")


def test_nothing_that_is_sent_makes_the_server_fail(server: Callable[..., Server]) -> None:
    """schemathesis over the whole document: requests that fit it, and requests that just do not."""
    # fits are refused by the limit, so that none is begun
    served = server("--max-tokens", "8", "--max-seconds", "2", "--fits", "0", "--max-body", "1M")
    found = json.loads(served.ask("/openapi.json")[1])
    paths = found["paths"].items()
    found["paths"] = {p: m for p, m in paths if "/polly/" not in p or p.endswith(POLLY)}
    operations = schemathesis.openapi.from_dict(found).get_all_operations()
    with requests.Session() as session:
        asked = sum(_try(session, served, result.ok()) for result in operations)
    assert asked > 20
    assert "Traceback" not in served.child.stderr


def _try(session: requests.Session, served: Server, operation: Any) -> int:
    long = operation.path.endswith(("/export", "/inspect", "/explain"))
    for mode in GenerationMode:

        @settings(
            max_examples=1 if long else 5, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            answer = case.call(session=session, base_url=f"http://127.0.0.1:{served.port}")
            assert answer.status_code < 500, (case.as_curl_command(), said(served.child)[-2000:])

        with contextlib.suppress(Unsatisfiable):  # nothing wrong can be sent to what takes nothing
            ask()
    return 1
