"""The verbs of language models over HTTP: only content arrives, files come back."""

from __future__ import annotations

from serving import Client

TEXT = "7 and 8 make 15.\n" * 20 + "and 9?"


def test_a_file_is_compressed_and_comes_back(client: Client) -> None:
    http = client()
    packed = http.post("/runs/books/compress", files={"file": ("a.txt", TEXT.encode())})
    assert packed.status_code == 200, packed.text
    assert len(packed.content) < len(TEXT) * 3 and packed.content.startswith(b"\x93fourff\n")
    back = http.post("/runs/books/expand", files={"file": ("a.txt.ff", packed.content)})
    assert back.status_code == 200 and back.content == TEXT.encode()
    wrong = http.post("/runs/books/expand", files={"file": ("a.ff", packed.content[:-1] + b"x")})
    assert wrong.status_code == 422 and "damaged or cut short" in wrong.text
    assert "/tmp" not in wrong.text


def test_the_name_of_a_file_is_only_content(client: Client) -> None:
    """A server never reads what a request names, nor standard input."""
    http = client()
    for name in ("/etc/hostname", "-", "@-"):
        packed = http.post("/runs/books/compress", json={"file": name})
        if packed.status_code == 200:
            back = http.post("/runs/books/expand", files={"file": ("a.ff", packed.content)})
            assert back.content == name.encode()
        else:
            assert packed.status_code == 422


def test_tokens_and_scores_of_each(client: Client) -> None:
    http = client()
    body = http.post("/runs/books/tokens", json={"text": "7 and 8"}).json()
    assert [row["token"] for row in body["rows"]] == list("7 and 8")
    numbers = [row["number"] for row in body["rows"]]
    assert http.post("/runs/books/tokens", json={"numbers": numbers}).json()["text"] == "7 and 8"
    each = http.post("/runs/books/score", json={"text": "7 and 8", "per_token": True}).json()
    whole = http.post("/runs/books/score", json={"text": "7 and 8"}).json()
    bits = sum(row["bits"] for row in each["rows"])
    assert abs(bits - whole["values"]["bits_per_token"] * 7) < 1e-6
