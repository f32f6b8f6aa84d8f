"""Every form of question and answer over HTTP, and what wrong ones are told."""

from __future__ import annotations

import base64
import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from fourfold.serve.encode import accepted
from fourfold.serve.limits import Limits
from parrot import dot
from serving import Client

ROW = {"size": 80.0, "town": "Bern", "rooms": 3}
CSV = "size,town,rooms\n80.0,Bern,3\n"


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Server-sent events, read as the specification says."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((fields["event"], json.loads(fields["data"])))
    return found


# --- questions -------------------------------------------------------------------------------------


def test_the_ways_to_ask(client: Client) -> None:
    http = client()
    address, body = "/runs/polly/say", b'{"text": "a", "times": 2}'
    expected = "a a."
    for kind in ("application/json", "application/json; charset=utf-8", "application/problem+json"):
        answer = http.post(address, content=body, headers={"content-type": kind})
        assert answer.status_code == 200 and answer.json()["text"] == expected
    assert http.post(address, content=body).json()["text"] == expected  # no type at all
    curl = {"content-type": "application/x-www-form-urlencoded"}
    assert http.post(address, content=body, headers=curl).json()["text"] == expected
    assert http.post(address, data={"text": "a", "times": "2"}).json()["text"] == expected
    assert http.post(address, data={"text": "a", "words": ["b", "c"]}).json()["text"] == "a b c."
    assert (
        http.post(address, files={"text": ("x.txt", b"a"), "times": (None, "2")}).json()["text"]
        == expected
    )
    plain = http.post(
        address, params={"times": 2}, content=b"a", headers={"content-type": "text/plain"}
    )
    assert plain.json()["text"] == expected
    wrong = http.post(address, params={"times": 2}, content=body)
    assert wrong.status_code == 422 and "times: stands in the address" in wrong.json()["detail"]


def test_tables_by_every_way_are_predicted_alike(client: Client) -> None:
    http = client()
    address = "/runs/rents/predict"
    expected = http.post(address, json={"source": [ROW]}).json()["rows"][0]["prediction"]
    assert 1000 < expected < 1300
    arrow = io.BytesIO()
    pl.DataFrame([ROW]).write_ipc_stream(arrow)
    columns = {name: [value] for name, value in ROW.items()}
    asked: list[dict[str, Any]] = [
        {"json": {"source": columns}},
        {"json": {"source": CSV}},
        {"content": CSV.encode(), "headers": {"content-type": "text/csv"}},
        {
            "content": CSV.replace(",", "\t").encode(),
            "headers": {"content-type": "text/tab-separated-values"},
        },
        {"content": json.dumps(ROW).encode(), "headers": {"content-type": "application/x-ndjson"}},
        {
            "content": arrow.getvalue(),
            "headers": {"content-type": "application/vnd.apache.arrow.stream"},
        },
        {"content": arrow.getvalue(), "headers": {"content-type": "application/octet-stream"}},
        {"files": {"source": ("x.csv", CSV.encode())}},
        {"files": {"source": ("x.arrow", arrow.getvalue())}},
        {"data": {"source": CSV}},
    ]
    for each in asked:
        answer = http.post(address, **each)
        assert answer.status_code == 200, (each, answer.text)
        assert answer.json()["rows"][0]["prediction"] == pytest.approx(expected, rel=1e-12)
    two = http.post(
        address, files=[("source", ("a.csv", CSV.encode())), ("source", ("b.csv", CSV.encode()))]
    )
    assert [row["prediction"] for row in two.json()["rows"]] == pytest.approx(
        [expected] * 2, rel=1e-12
    )


def test_images_and_arrays(client: Client) -> None:
    http = client()
    content = dot((1, 2, 3), (4, 5))
    expected = {"size": [4, 5], "pixel": [1, 2, 3]}
    encoded = base64.b64encode(content).decode()
    assert http.post("/runs/polly/look", json={"image": encoded}).json()["value"] == expected
    assert (
        http.post("/runs/polly/look", files={"image": ("x", content)}).json()["value"] == expected
    )
    raw = http.post("/runs/polly/look", content=content, headers={"content-type": "image/png"})
    assert raw.json()["value"] == expected
    assert http.post("/runs/polly/norm", json={"values": [[3.0], [4.0]]}).json()["value"] == 5.0
    file = io.BytesIO()
    np.save(file, np.array([3, 4]))
    assert (
        http.post("/runs/polly/norm", files={"values": ("x.npy", file.getvalue())}).json()["value"]
        == 5.0
    )
    assert http.post("/runs/polly/total", json={"values": [[1, 2], [3, 4]]}).json()["array"] == [
        4,
        6,
    ]


# --- answers ---------------------------------------------------------------------------------------


def test_answers_in_json(client: Client) -> None:
    http = client()

    def said(verb: str) -> Any:
        answer = http.post(f"/runs/polly/{verb}")
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/json"
        return json.loads(
            answer.text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON")
        )

    rows = said("rows")
    assert rows["columns"] == ["name", "value", "odd"]
    assert rows["rows"] == [
        {"name": "a", "value": 1.5, "odd": None},
        {"name": "é", "value": None, "odd": 2.0},
    ]
    draw = said("draw")
    assert (
        base64.b64decode(draw["png"]) == dot()
        and draw["svg"].startswith("<svg")
        and draw["caption"] == "a dot"
    )
    assert base64.b64decode(said("paint")["png"]).startswith(b"\x89PNG")
    assert [p["title"] for p in said("album")["pictures"]] == ["one", "two"]
    assert said("numbers")["array"] == [[1.0, None], [3.0, -4.0]] and said("numbers")["shape"] == [
        2,
        2,
    ]
    score = said("measure")
    assert score["values"] == {"a": 1.0, "b": None} and score["units"] == {"a": "m"}
    assert score["notes"] == ["noted in it", "said beside it"]
    verdict = said("explains")
    assert verdict["sentences"] == ["It is well."] and verdict["tables"][0]["rows"] == [
        [1, "x"],
        [None, None],
    ]
    assert base64.b64decode(verdict["pictures"][0]["png"]) == dot()
    assert said("facts")["value"] == {"é": 1, "list": [1, None], "3": 0.5}
    assert said("count")["text"] == "1\n2\n3\n"


def test_answers_in_other_forms(client: Client) -> None:
    http = client()

    def said(verb: str, accept: str) -> Any:
        return http.post(f"/runs/polly/{verb}", headers={"accept": accept})

    csv = said("rows", "text/csv")
    assert (
        csv.headers["content-type"].startswith("text/csv")
        and csv.text.splitlines()[1] == "a,1.5,NaN"
    )
    arrow = said("rows", "application/vnd.apache.arrow.stream")
    assert pl.read_ipc_stream(io.BytesIO(arrow.content))["value"].to_list() == [1.5, None]
    assert said("draw", "image/png").content == dot()
    assert said("draw", "image/svg+xml").text.startswith("<svg")
    assert said("paint", "image/*").content.startswith(b"\x89PNG")
    assert said("count", "text/plain").text == "1\n2\n3\n"
    assert np.load(io.BytesIO(said("numbers", "application/x-npy").content))[1, 1] == -4
    assert said("draw", "text/html").headers["content-type"] == "application/json"
    noted = http.post(
        "/runs/rents/predict",
        json={"source": [{**ROW, "town": "Öslo"}]},
        headers={"accept": "text/csv"},
    )
    assert "not seen" in json.loads(noted.headers["x-fourfold-notes"])[0]


def test_files_are_downloads(client: Client) -> None:
    http = client()
    one = http.post("/runs/polly/save", json={"word": "é"})
    assert one.text == "é" and 'filename="polly-save.txt"' in one.headers["content-disposition"]
    several = http.post("/runs/polly/export")
    assert several.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(several.content)) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    assert found == {"polly-export/a.txt": b"A", "polly-export/b/c.txt": b"C"}


def test_pieces_as_events(client: Client) -> None:
    http = client()
    expected = [("piece", {"text": f"{i}\n"}) for i in (1, 2)]
    for asked in (
        {"json": {"to": 2, "stream": True, "noted": True}},
        {"json": {"to": 2, "noted": True}, "headers": {"accept": "text/event-stream"}},
    ):
        answer = http.post("/runs/polly/count", **asked)
        assert answer.headers["content-type"].startswith("text/event-stream")
        found = events(answer.text)
        assert found[:-1] == expected
        assert found[-1][0] == "end" and found[-1][1]["notes"] == ["counted to 2"]
    wrong = http.post("/runs/polly/count", json={"to": 0, "stream": True})
    assert wrong.status_code == 422  # before the first piece an error has its status
    late = events(http.post("/runs/polly/fail", json={"late": True, "stream": True}).text)
    assert late[0] == ("piece", {"text": "a piece"})
    assert late[1][0] == "error" and late[1][1]["id"] in late[1][1]["detail"]
    assert http.post("/runs/polly/fail", json={"stream": True}).status_code == 500


def test_what_the_client_prefers() -> None:
    offered = ("application/json", "text/csv")
    for header, wanted in (
        ("", 0), ("*/*", 0), ("text/csv", 1), ("text/*", 1), ("text/csv;q=0.5, application/json", 0),
        ("text/csv, application/json;q=0.5", 1), ("text/csv, */*", 1), ("*/*, text/csv", 1), ("image/png", 0),
        ("text/csv;q=0", 0), ("text/csv;q=nonsense", 0), (";;,,", 0), ("TEXT/CSV", 1),
    ):  # fmt: skip
        assert accepted(header, offered) == offered[wanted], header


# --- runs, systems, the server -----------------------------------------------------------------------


def test_runs_and_their_logs(client: Client, runs: Path) -> None:
    http = client()
    found = {run["name"]: run for run in http.get("/runs").json()}
    assert set(found) == {"books", "polly", "rents"}
    assert found["books"]["state"] == "finished" and found["books"]["ready"]
    assert "generate" in found["books"]["verbs"]
    full = http.get("/runs/books").json()
    forms = {form["verb"]: form for form in full["forms"]}
    assert forms["generate"]["streams"] and forms["generate"]["fields"][0]["name"] == "prompt"
    assert full["options"]["layers"] == 2 and full["about"]["system"] == "gpt"
    lines = (runs / "books" / "metrics.jsonl").read_text().splitlines()
    first = http.get("/runs/books/metrics").json()
    assert first["next"] == len(lines) and [x["step"] for x in first["lines"]] == [
        json.loads(x)["step"] for x in lines
    ]
    assert (
        http.get("/runs/books/metrics", params={"after": 1}).json()["lines"] == first["lines"][1:]
    )
    assert http.get("/runs/books/metrics", params={"after": 10**9}).json()["lines"] == []
    assert http.get("/runs/books/metrics", params={"after": -1}).status_code == 422
    report = http.get("/runs/books/report")
    assert report.text == (runs / "books" / "report.html").read_text()
    assert report.headers["content-security-policy"].startswith("sandbox")


def test_systems(client: Client) -> None:
    http = client()
    assert {"gpt", "linear"} <= {system["name"] for system in http.get("/systems").json()}
    gpt = http.get("/systems/gpt").json()
    options = {option["name"]: option for option in gpt["options"]}
    assert options["layers"]["kind"] == "integer" and options["data.unit"]["choices"][0] == "byte"
    assert "small" in gpt["sizes"] and "tinyshakespeare" in gpt["data"]
    assert http.get("/systems/gtp").status_code == 404


def test_the_server_itself(client: Client) -> None:
    http = client()
    assert http.get("/health").json() == {"status": "ok"} and http.get("/ready").json() == {
        "ready": True
    }
    http.post("/runs/polly/say", json={"text": "a"})
    http.post("/runs/polly/say", json={})
    http.get("/made/up")
    text = http.get("/metrics").text
    assert (
        'fourfold_requests_total{method="POST",route="/runs/{name}/{verb}",status="200"} 1.0'
        in text
    )
    assert (
        'fourfold_requests_total{method="POST",route="/runs/{name}/{verb}",status="422"} 1.0'
        in text
    )
    assert 'route="other"' in text and "/made" not in text
    assert 'fourfold_verb_seconds_count{system="parrot",verb="say"} 1.0' in text
    assert "fourfold_runs_open 1.0" in text and "process_resident_memory_bytes" in text


# --- what is wrong -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "settings", "status", "sentence"),
    [
        ("POST", "/runs/pollx/say", {}, 404, "pollx: no such run here; did you mean polly?"),
        ("POST", "/runs/polly/sax", {}, 404, "has no verb sax; did you mean say?"),
        ("POST", "/runs/polly/build", {}, 404, "has no verb build"),
        ("POST", "/runs/polly/preview", {}, 404, "has no verb preview"),
        ("POST", "/runs/polly/__init__", {}, 404, "has no verb __init__"),
        ("POST", "/runs/..%2fruns/say", {}, 404, ""),
        ("GET", "/runs/pollx", {}, 404, "pollx: no such run here"),
        ("GET", "/runs/pollx/report", {}, 404, "no such run"),
        ("GET", "/runs/polly/say", {}, 405, "Method Not Allowed"),
        ("POST", "/runs/polly/say", {"json": {}}, 422, "text: is missing; say needs it"),
        ("POST", "/runs/polly/say", {"content": b"{"}, 422, "the body is not valid JSON"),
        ("POST", "/runs/polly/say", {"content": b"\xff\xfe"}, 422, "the body is not valid JSON"),
        ("POST", "/runs/polly/say", {"json": {"text": "a", "tims": 1}}, 422, "unknown field tims; did you mean times?"),
        ("POST", "/runs/polly/refuse", {}, 422, "this cannot be done"),
        ("POST", "/runs/rents/predict", {"json": {"source": "town,size\nx\n"}}, 422, "source.csv"),
        ("POST", "/runs/polly/say", {"content": b"<a/>", "headers": {"content-type": "application/xml"}}, 415, "application/xml: say takes application/json"),
        ("POST", "/runs/rents/predict", {"content": b"x", "headers": {"content-type": "image/png"}}, 415, "text/csv"),
        ("POST", "/runs/polly/say", {"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "the form cannot be read"),
        ("POST", "/runs/polly/say", {"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=y"}}, 400, "the form cannot be read"),
        ("POST", "/runs/polly/say", {"content": b"--y\r\n\r\nx", "headers": {"content-type": "multipart/form-data; boundary=y"}}, 400, "the form cannot be read"),
        ("POST", "/runs/polly/say", {"data": {"text": ["a", "b"]}}, 422, "text: expected a valid string, got ['a', 'b']"),
        ("POST", "/runs/polly/say", {"content": b"text=%ff", "headers": {"content-type": "application/x-www-form-urlencoded"}}, 400, "the form cannot be read"),
        ("POST", "/fits", {"json": {"system": "gtp"}}, 422, "gtp: no such system; did you mean gpt?"),
        ("POST", "/fits", {"json": {}}, 422, "system: field required"),
        ("POST", "/fits/pollx/stop", {}, 404, "no fit of this name was started here"),
        ("POST", "/fits/polly/resume", {"json": {"lr": 1}}, 422, "lr: extra inputs are not permitted"),
    ],
)  # fmt: skip
def test_wrong_requests_are_told_in_one_sentence(
    client: Client, method: str, path: str, settings: dict[str, Any], status: int, sentence: str
) -> None:
    answer = client().request(method, path, **settings)
    assert answer.status_code == status, answer.text
    detail = answer.json()["detail"]
    assert sentence in detail and "\n" not in detail and "Traceback" not in answer.text


def test_a_wrong_method_names_the_right_ones(client: Client) -> None:
    for path, allowed in (("/runs", "GET"), ("/runs/polly/say", "POST"), ("/fits", "GET, POST")):
        answer = client().put(path)
        assert answer.status_code == 405 and answer.headers["allow"] == allowed
    assert client().get("/runs/polly/say/more").json() == {"detail": "Not Found"}


def test_a_failure_inside_is_told_by_its_id(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    answer = client().post("/runs/polly/fail")
    assert answer.status_code == 500 and set(answer.json()) == {"detail", "id"}
    assert "secret" not in answer.text and "ZeroDivision" not in answer.text
    assert answer.json()["id"] in caplog.text and "the secret of this bug" in caplog.text


def test_too_large(client: Client) -> None:
    http = client(limits=Limits(body=1000, rows=2, stop=5.0))
    said = http.post("/runs/polly/say", json={"text": "a" * 1000})
    assert said.status_code == 413 and said.json()["detail"].startswith("a body of 1,")
    chunks = http.post("/runs/polly/say", content=iter([b"a" * 400] * 5))  # no Content-Length
    assert chunks.status_code == 413 and "expected 1,000 bytes at most" in chunks.json()["detail"]
    form = http.post("/runs/polly/say", files={"text": ("x", b"a" * 2000)})
    assert form.status_code == 413
    rows = http.post("/runs/rents/predict", json={"source": [{"a": 1}] * 3})
    assert rows.status_code == 413 and "3 rows, expected 2 at most" in rows.json()["detail"]
    odd = http.post("/runs/polly/say", content=b"{}", headers={"content-length": "-5"})
    assert odd.status_code == 400


def test_too_much(client: Client) -> None:
    http = client(
        limits=Limits(concurrency=1, queue=0, per_run=1, most={"times": 3, "to": 5}, stop=5.0)
    )
    assert http.post("/runs/polly/say", json={"text": "a", "times": 4}).status_code == 422
    assert http.post("/runs/polly/count", json={}).json()["text"] == "1\n2\n3\n"
    import threading

    slow = threading.Thread(
        target=http.post, args=("/runs/polly/sleep",), kwargs={"json": {"seconds": 0.5}}
    )
    slow.start()
    while "fourfold_calls_working 1.0" not in http.get("/metrics").text:
        pass
    busy = http.post("/runs/polly/say", json={"text": "a"})
    slow.join()
    assert busy.status_code == 429 and int(busy.headers["retry-after"]) >= 1
    assert "come again later" in busy.json()["detail"]


def test_a_damaged_run_is_said_and_others_are_served(
    client: Client, runs: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(runs, tmp_path / "runs"))
    (folder / "books" / "system.toml").write_text("nonsense")
    (folder / "rents" / "weights.safetensors").unlink()
    http = client(folder)
    states = {run["name"]: run["state"] for run in http.get("/runs").json()}
    assert states == {"books": "damaged", "rents": "damaged", "polly": "finished"}
    for address in ("/runs/books/generate", "/runs/rents/inspect"):
        answer = http.post(address)
        assert answer.status_code == 409 and "damaged" in answer.json()["detail"]
    assert http.post("/runs/polly/say", json={"text": "on"}).json()["text"] == "on."
    assert http.get("/openapi.json").status_code == 200
    assert http.get("/runs/books").json()["state"] == "damaged"
