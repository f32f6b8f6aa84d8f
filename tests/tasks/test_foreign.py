"""Models of somebody else's where a run is named, against scripted servers on loopback and GGUF files."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import fourfold
import scripted
from fourfold.cli.main import dispatch
from fourfold.core.addresses import Address, address
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.data.text import Text
from fourfold.optimizers.gradient import Gradient
from fourfold.systems.gpt import GPT
from fourfold.systems.sft import SFT
from fourfold.tasks.foreign import foreign, length, room
from fourfold.tasks.language import vocabulary_of
from scripted import events


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No token and no place of the machine's own."""
    for name in ("OLLAMA_HOST", "OLLAMA_API_KEY", "OPENAI_API_KEY", "FOURFOLD_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("FOURFOLD_TIMEOUT", raising=False)


def free() -> int:
    """A port on which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.mark.parametrize(
    ("name", "kind", "base", "model"),
    [
        ("ollama:llama3.2", "ollama", "http://127.0.0.1:11434", "llama3.2"),
        ("ollama:qwen3:4b", "ollama", "http://127.0.0.1:11434", "qwen3:4b"),
        ("http://127.0.0.1:8080/v1#a/b", "openai", "http://127.0.0.1:8080/v1", "a/b"),
        ("https://host.example/api/v1/#m", "openai", "https://host.example/api/v1", "m"),
        ("http://[::1]:80", "openai", "http://[::1]:80/v1", ""),
        ("folder/model.GGUF", "gguf", "folder/model.GGUF", ""),
    ],
)
def test_names(name: str, kind: str, base: str, model: str) -> None:
    found = address(name)
    assert found is not None and (found.kind, found.base, found.model) == (kind, base, model)


@pytest.mark.parametrize(
    ("host", "base"),
    [
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("box:99", "http://box:99"),
        ("[::1]", "http://[::1]:11434"),
        ("https://ollama.example/", "https://ollama.example"),
    ],
)
def test_where_ollama_is(monkeypatch: pytest.MonkeyPatch, host: str, base: str) -> None:
    monkeypatch.setenv("OLLAMA_HOST", host)
    found = address("ollama:m")
    assert found is not None and found.base == base


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("ollama:", "expected a model's name behind the colon"),
        ("http://", "not the address of a server"),
        ("http://host:port/v1", "not the address of a server"),
        ("http://me:secret@host/v1#m", "a token goes into FOURFOLD_API_KEY"),
    ],
)
def test_what_is_no_address(name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as raised:
        fourfold.open(name)
    assert "secret" not in str(raised.value)


def test_runs_are_no_addresses() -> None:
    for name in ("last", "runs/books", "books", "C:\\runs\\books", "ollama/x", "httpd"):
        assert address(name) is None


def test_a_conversation_with_a_server() -> None:
    with scripted.scripted(scripted.openai()) as server:
        run = fourfold.open(f"http://{server.host}/v1#small")
        pieces = list(run.chat("猫 and dog", temperature=0, tokens=7, seed=3, stop=("x",)))
        assert pieces == ["You", " said:", " 猫", " and", " dog"]
        before = [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
        ]
        assert "".join(run.chat("c", messages=before, system="be brief")) == "You said: c"
        first, second = server.bodies("/v1/chat/completions")
    assert first == {
        "model": "small", "messages": [{"role": "user", "content": "猫 and dog"}], "max_tokens": 7, "stream": True,
        "temperature": 0, "stop": ["x"], "seed": 3,
    }  # fmt: skip
    roles = [m["role"] for m in second["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    assert not {"top_k", "top_p", "min_p", "seed", "stop"} & set(
        second
    )  # not every server knows them


def test_answers_by_a_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = {"type": "object"}
    with scripted.scripted(scripted.openai()) as server:
        run = fourfold.open(f"http://{server.host}")
        list(run.chat("a", schema='{"type": "object"}'))
        told = server.bodies("/v1/chat/completions")[0]["response_format"]
        assert told["type"] == "json_schema" and told["json_schema"]["schema"] == schema
        for wrong, sentence in (("{", "schema: not JSON"), ("[]", "expected a JSON object, got list")):  # fmt: skip
            with pytest.raises(UserError, match=sentence):
                list(run.chat("a", schema=wrong))
    with scripted.scripted(scripted.ollama()) as server:
        monkeypatch.setenv("OLLAMA_HOST", server.host)
        run = fourfold.open("ollama:qwen3:4b")
        list(run.generate("a", schema='{"type": "object"}'))
        assert server.bodies("/api/generate")[0]["format"] == schema


def test_other_verbs_of_a_server() -> None:
    with scripted.scripted(scripted.openai()) as server:
        run = fourfold.open(f"http://{server.host}")  # the only model of the only address
        assert list(run.generate("ab", tokens=3)) == ["ab!"]
        assert list(run.generate(["ab", "c"], count=2, seed=1)) == [
            "ab!\n",
            "ab!\n",
            "c!\n",
            "c!\n",
        ]
        assert [b["seed"] for b in server.bodies("/v1/completions")[1:]] == [1, 2, 1, 2]
        score = run.score("abcde")
        assert score["nats_per_token"] == 0.5 and score["tokens"] == 4
        assert score["bits_per_byte"] == pytest.approx(0.5 / 0.6931471805599453)
        assert "first token, 'a'" in score.notes[0]
        table = run.score("abc", per_token=True)
        assert table["text"].to_list() == ["a", "b", "c"] and table["nats"].to_list()[0] is None
        vectors = run.embed(["x"] * 65)
        assert vectors.shape == (65, 4)
        assert vectors.row(0)[1:] == pytest.approx((0.6, 0.8, 0.0))
        assert vectors.row(63)[3] == pytest.approx(63 / (25 + 63**2) ** 0.5)  # ordered by index
        assert [len(b["input"]) for b in server.bodies("/v1/embeddings")] == [64, 1]
        with pytest.raises(UserError, match="has no test split"):
            run.evaluate()


def test_ollama(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted.scripted(scripted.ollama()) as server:
        monkeypatch.setenv("OLLAMA_HOST", server.host)
        run = fourfold.open("ollama:llama3.2")
        assert "".join(run.chat("über 猫", temperature=0, top_k=5, stop=("\n",))) == "über 猫 "
        assert "".join(run.generate("abc", tokens=9)) == "cba"
        assert run.embed("x").shape == (1, 3)
        with pytest.raises(UserError, match="does not tell log-probabilities.*FILE.gguf"):
            run.score("a text")
        body = server.bodies("/api/chat")[0]
        assert body["options"] == {"num_predict": 256, "num_ctx": 4096, "temperature": 0, "top_k": 5, "stop": ["\n"]}  # fmt: skip
        assert server.bodies("/api/generate")[0]["raw"] is True
        assert room(run) == 4096
        with pytest.raises(UserError, match=r"no model lama3.2; it has llama3.2, qwen3:4b; did you mean llama3.2\?; `ollama pull"):  # fmt: skip
            fourfold.open("ollama:lama3.2")


def test_what_does_not_run_is_said_with_how_to_start_it(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free()
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{port}")
    with pytest.raises(UserError, match="no server answers.*start it with `ollama serve`"):
        fourfold.open("ollama:llama3.2")
    with pytest.raises(UserError, match=f"no server answers.*`fourfold serve RUN --port {port}`"):
        fourfold.open(f"http://127.0.0.1:{port}/v1#m")
    with pytest.raises(UserError, match="no server answers at https?://no.such.host.invalid"):
        fourfold.open("https://no.such.host.invalid/v1#m")


def test_models_that_a_server_does_not_have() -> None:
    with scripted.scripted(scripted.openai(models=("small", "large"))) as server:
        base = f"http://{server.host}/v1"
        with pytest.raises(UserError, match="has no model smal; it has small, large.*#small"):
            fourfold.open(f"{base}#smal")
        with pytest.raises(UserError, match="has several models: small, large"):
            fourfold.open(base)


def test_tokens_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    def script(path: str, body: dict[str, Any]) -> Any:
        return 401, {"error": {"message": "no token."}}

    with scripted.scripted(script) as server:
        monkeypatch.setenv("OPENAI_API_KEY", "of-openai-alone")
        with pytest.raises(UserError, match=r"refuses the request \(401: no token\); set FOURFOLD_API_KEY"):  # fmt: skip
            fourfold.open(f"http://{server.host}/v1#m")
        monkeypatch.setenv("FOURFOLD_API_KEY", "mine")
        with pytest.raises(UserError, match="401"):
            fourfold.open(f"http://{server.host}/v1#m")
    sent = [headers.get("Authorization") for _, _, headers in server.asked]
    assert sent == [None, "Bearer mine"]


@pytest.mark.parametrize(
    ("chat", "sentence"),
    [
        ((500, {"error": {"message": "out of memory"}}), "status 500: out of memory"),
        ((200, b"<html>"), "with no JSON"),
        ((404, {"error": "none"}), "may lack /chat/completions"),
        ((302, b""), "points elsewhere"),
        ((429, {"error": {"message": "slow down"}}), r"is busy \(429: slow down\)"),
    ],
)
def test_answers_that_are_none(chat: Any, sentence: str) -> None:
    plain = scripted.openai()

    def script(path: str, body: dict[str, Any]) -> Any:
        return chat if path == "/v1/chat/completions" else plain(path, body)

    with scripted.scripted(script) as server:
        run = fourfold.open(f"http://{server.host}/v1#small")
        with pytest.raises(UserError, match=sentence):
            list(run.chat("a"))
        assert len(server.bodies("/v1/chat/completions")) == (4 if chat[0] == 429 else 1)


def piece(text: str, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, **more}]}


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ((piece("a"),), "broke off before its end"),
        ((piece("a"), {"error": {"message": "the model died"}}), "broke off: the model died"),
        ((piece("a"), 1.0), "has not answered within 0.3 s; FOURFOLD_TIMEOUT allows more"),
    ],
)
def test_streams_that_break_off(told: Any, sentence: str) -> None:
    plain = scripted.openai()

    def script(path: str, body: dict[str, Any]) -> Any:
        chat = path == "/v1/chat/completions"
        return events(*told, done=False) if chat else plain(path, body)

    with scripted.scripted(script) as server:
        run = fourfold.open(f"http://{server.host}/v1#small", timeout=0.3)
        said = []
        with pytest.raises(UserError, match=sentence):
            said += list(run.chat("a"))
        stream = run.chat("a")
        assert next(stream) == "a"  # what came before is not lost
        stream.close()


def test_who_ends_an_answer_ends_the_request() -> None:
    plain = scripted.openai()

    def script(path: str, body: dict[str, Any]) -> Any:
        pieces = [each for n in range(400) for each in (piece(f"{n} " * 500), 0.005)]
        return events(*pieces) if path == "/v1/chat/completions" else plain(path, body)

    with scripted.scripted(script) as server:
        stream = fourfold.open(f"http://{server.host}/v1#small").chat("a")
        next(stream)
        stream.close()
        assert server.left.wait(5)


def test_halves_of_characters_are_no_text() -> None:
    plain = scripted.openai()

    def script(path: str, body: dict[str, Any]) -> Any:
        if path == "/v1/chat/completions":
            return events(piece("a\ud83d"), piece("", finish_reason="stop"))
        return plain(path, body)

    with scripted.scripted(script) as server:
        assert list(fourfold.open(f"http://{server.host}/v1#small").chat("a")) == ["a?"]


def test_a_server_that_repeats_no_text_cannot_score() -> None:
    plain = scripted.openai()

    def script(path: str, body: dict[str, Any]) -> Any:
        if path == "/v1/completions":
            return 200, {"choices": [{"text": "", "logprobs": None}]}
        return plain(path, body)

    with scripted.scripted(script) as server:
        run = fourfold.open(f"http://{server.host}/v1#small")
        with pytest.raises(UserError, match="does not tell log-probabilities of a given text"):
            run.score("abc")


def test_the_command_line(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    with scripted.scripted(scripted.openai()) as server:
        name = f"http://{server.host}/v1#small"
        dispatch(["chat", name, "hello", "--temperature", "0"])
        assert capsys.readouterr().out == "You said: hello\n"
        dispatch(["embed", name, "a", "--json"])
        assert "0.6" in capsys.readouterr().out
        monkeypatch.setattr("sys.stdin", __import__("io").StringIO("one\ntwo\n"))
        dispatch(["chat", name])
        assert capsys.readouterr().out == "You said: one\nYou said: two\n"
        assert len(server.bodies("/v1/chat/completions")[-1]["messages"]) == 3
        with pytest.raises(UserError, match=r"a run of foreign has no verb compress"):
            dispatch(["compress", name, "x"])
        with pytest.raises(UserError, match="--temperature: expected greater than or equal to 0"):
            dispatch(["chat", name, "x", "--temperature", "-1"])
        monkeypatch.setenv("FOURFOLD_TIMEOUT", "soon")
        with pytest.raises(UserError, match="FOURFOLD_TIMEOUT: expected seconds above 0"):
            dispatch(["chat", name, "x"])
    with pytest.raises(UserError, match="here a run's own weights and data are needed"):
        dispatch(["fit", "gpt", "--from", "ollama:llama3.2"])
    with pytest.raises(UserError, match="none.gguf: no such file"):
        dispatch(["chat", "none.gguf", "x"])


# --- files ------------------------------------------------------------------------------------------


def small(cls: Any, **data: Any) -> Any:
    return cls(
        data=data["data"], layers=2, width=64, heads=4, kv_heads=2,
        optimizer=Gradient(lr=5e-3, steps=20, precision="float32"),
    )  # fmt: skip


TEXT = "the cat sat on the mat. 猫坐在垫子上。\n"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run, Run]:
    """base.gguf and chat.gguf in a folder, and the runs that they were written from."""
    pytest.importorskip("gguf")
    folder = tmp_path_factory.mktemp("files")
    data = Text(unit="bpe", vocabulary=270, window=48, batch=8)
    base = fourfold.fit(small(GPT, data=data), {"text": [f"{n} {TEXT}" for n in range(60)]}, out=folder / "base")  # fmt: skip
    chats = [{"question": f"{n}?", "answer": f"It is {n}."} for n in range(60)]
    system = SFT(layers=2, width=64, heads=4, kv_heads=2, optimizer=Gradient(lr=5e-3, steps=60))
    tuned = fourfold.fit(system, chats, from_=base, out=folder / "chat")
    for run in (base, tuned):
        run.export(to="gguf", quantize="f32", out=folder / f"{run.folder and run.folder.name}.gguf")
    return folder, base, tuned


GREEDY: Any = {"tokens": 20, "temperature": 0}


def test_a_file_is_a_run(files: tuple[Path, Run, Run], tmp_path: Path) -> None:
    folder, base, tuned = files
    run = fourfold.open(folder / "base.gguf")
    assert run.system.name == "gpt" and run.folder is None
    assert list(run.generate("the", **GREEDY)) == list(base.generate("the", **GREEDY))
    assert run.score(TEXT)["bits_per_byte"] == pytest.approx(base.score(TEXT)["bits_per_byte"])
    assert (room(run), length(run, TEXT)) == (48, len(vocabulary_of(base.data).encode(TEXT)))
    with pytest.raises(UserError, match="base.gguf: has no chat template.*`fourfold generate`"):
        dispatch(["chat", str(folder / "base.gguf"), "x"])
    run = fourfold.open(folder / "chat.gguf")
    said = list(tuned.chat("7?", tokens=12, temperature=0))
    assert said and list(run.chat("7?", tokens=12, temperature=0)) == said
    assert list(run.generate("the", **GREEDY)) == list(tuned.generate("the", **GREEDY))
    (tmp_path / "cut.gguf").write_bytes((folder / "base.gguf").read_bytes()[:5000])
    with pytest.raises(UserError, match="truncated or damaged"):
        fourfold.open(tmp_path / "cut.gguf")


def test_llama_cpp_says_the_same(files: tuple[Path, Run, Run]) -> None:
    """Where our own model cannot hold a file, llama.cpp runs it: here one that both can."""
    pytest.importorskip("llama_cpp")
    folder, base, tuned = files
    other = foreign(Address("gguf", "base.gguf", str(folder / "base.gguf"), ""))
    for prompt in ("the cat", "猫坐"):
        assert list(other.generate(prompt, **GREEDY))
        assert "".join(other.generate(prompt, **GREEDY)) == "".join(base.generate(prompt, **GREEDY))
    assert room(other) == 48 and other.embed(["the cat", "the mat"]).shape == (2, 65)
    theirs = other.score(TEXT, per_token=True)["nats"].to_list()[1:]
    mine = fourfold.open(folder / "base.gguf").score(TEXT, per_token=True)["nats"].to_list()
    assert len(theirs) == len(mine) - 1  # the token that opens a text is ours alone
    talk = foreign(Address("gguf", "chat.gguf", str(folder / "chat.gguf"), ""))
    assert "".join(talk.chat("7?", **GREEDY)) == "".join(tuned.chat("7?", **GREEDY))


def test_lengths_that_can_only_be_estimated_are_not_too_short() -> None:
    with scripted.scripted(scripted.openai()) as server:
        run = fourfold.open(f"http://{server.host}")
    assert (
        length(run, "猫坐在垫子上") == 6 and length(run, "the cat sat") == 4 and room(run) is None
    )


def test_time() -> None:
    """A server that takes the connection and says nothing is given up."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(UserError, match="has not answered within 0.2 s"):
            fourfold.open(f"http://127.0.0.1:{silent.getsockname()[1]}/v1#m", timeout=0.2)
        assert time.monotonic() - began < 5


def test_vectors_are_a_table(tmp_path: Path) -> None:
    with scripted.scripted(scripted.openai()) as server:
        run = fourfold.open(f"http://{server.host}")
        found = run.embed("a\n\nb\n", lines=True, normalize=False)
        assert isinstance(found, pl.DataFrame) and found["text"].to_list() == ["a", "b"]
        assert found.row(1)[1:] == (3.0, 4.0, 1.0)
        with pytest.raises(UserError, match="a text is empty"):
            run.embed([" "])
