"""Who may ask: tokens, other sites' pages, names that point here."""

from __future__ import annotations

import pytest
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from fourfold.core.errors import UserError
from fourfold.serve.security import checked, digest
from serving import Client

TOKEN = "a-token-that-nobody-guesses"
ASKED = {"json": {"text": "a"}}


def test_a_token_is_needed(client: Client) -> None:
    http = client(token=TOKEN)
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}, {"authorization": "Bearer"},
                    {"cookie": f"fourfold={TOKEN}"}, {"cookie": "fourfold=é;;="}, {"authorization": f"Bearer {TOKEN}x"}):  # fmt: skip
        raw = {k: v.encode() for k, v in headers.items()}
        for path in (
            "/runs",
            "/runs/polly",
            "/metrics",
            "/docs",
            "/openapi.json",
            "/systems",
            "/fits",
            "/made/up",
        ):
            answer = http.get(path, headers=raw)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"].startswith("Bearer")
        assert http.post("/runs/polly/say", headers=raw, **ASKED).status_code == 401
    assert http.get("/health").status_code == 200 and http.get("/ready").status_code == 200
    right = {"authorization": f"bearer {TOKEN}"}
    assert http.post("/runs/polly/say", headers=right, **ASKED).json()["text"] == "a."
    assert "securitySchemes" in http.get("/openapi.json", headers=right).json()["components"]


def test_a_token_is_proof_from_anywhere(client: Client) -> None:
    http = client(token=TOKEN)
    headers = {
        "authorization": f"Bearer {TOKEN}",
        "host": "example.org",
        "origin": "https://other.org",
    }
    assert http.post("/runs/polly/say", headers=headers, **ASKED).status_code == 200


def test_a_reader_enters_the_token_once(client: Client) -> None:
    http = client(token=TOKEN, follow_redirects=False)
    sent = http.get("/docs", headers={"accept": "text/html"})
    assert sent.status_code == 303 and sent.headers["location"] == "/login?next=/docs"
    assert 'type="password"' in http.get(sent.headers["location"]).text
    assert http.post("/login?next=/docs", data={"token": "wrong"}).status_code == 401
    entered = http.post("/login?next=/docs", data={"token": TOKEN})
    assert entered.status_code == 303 and entered.headers["location"] == "/docs"
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and TOKEN not in cookie
    assert http.get("/docs").status_code == 200
    assert http.post("/runs/polly/say", **ASKED).status_code == 200  # the page's own request
    stolen = http.post("/runs/polly/say", headers={"origin": "http://other.org"}, **ASKED)
    assert stolen.status_code == 403
    for next in ("//evil.org", "https://evil.org", "/\\evil.org", "javascript:alert(1)"):
        assert (
            http.post("/login", params={"next": next}, data={"token": TOKEN}).headers["location"]
            == "/"
        )
    assert '"><script>' not in http.get("/login", params={"next": '/"><script>'}).text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://localhost"}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:8000"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"origin": "http://evil.org"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost:9999"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"host": "evil.org"}, 403),
        ({"host": "evil.org:8000", "origin": "http://evil.org:8000"}, 403),
        ({"host": "localhost.evil.org"}, 403),
        ({"host": "[bad"}, 403),
        ({"host": ""}, 403),
    ],
)
def test_without_a_token_only_this_machine_and_its_own_pages(
    client: Client, headers: dict[str, str], status: int
) -> None:
    answer = client().post("/runs/polly/say", headers=headers, **ASKED)
    assert answer.status_code == status
    if "host" in headers:
        assert client().get("/runs", headers={"host": headers["host"]}).status_code == status


def test_web_sockets_are_asked_too(client: Client) -> None:
    for http, headers in (
        (client(), {"origin": "http://evil.org"}),
        (client(), {"host": "evil.org"}),
        (client(token=TOKEN), {}),
    ):
        with (
            pytest.raises((WebSocketDisconnect, WebSocketDenialResponse)),
            http.websocket_connect("/any", headers=headers),
        ):
            pass


def test_other_hosts_need_a_token() -> None:
    assert checked(None, "127.0.0.1") is None and checked(TOKEN, "0.0.0.0") == TOKEN
    for host in ("0.0.0.0", "::", "192.168.0.2", "example.org"):
        with pytest.raises(
            UserError, match=f"--host {host}: others can reach it, so it needs a token"
        ):
            checked(None, host)
    for token in ("short", "", "é" * 20, "with a space in it", "a" * 20 + "\n"):
        with pytest.raises(UserError, match="--token: expected 16 characters or more"):
            checked(token, "127.0.0.1")
    assert digest(TOKEN) != digest(TOKEN + "x") and TOKEN not in digest(TOKEN)
