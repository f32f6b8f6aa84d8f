"""OpenAI's API over runs, driven by the official client over real sockets."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import fourfold
from fourfold.cli.serve import _check_engine
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.data.conversations import Conversations
from fourfold.data.text import Text
from fourfold.optimizers.gradient import Gradient
from fourfold.serve.limits import Limits
from fourfold.serve.shelf import Shelf
from fourfold.systems.bert import Bert
from fourfold.systems.gpt import GPT
from fourfold.systems.rnn import RNN
from fourfold.systems.sft import SFT
from serving import Threaded

openai = pytest.importorskip("openai")
PROMPTS = ["7 and 8", "1", "30 and 4 make", "9 and 9 make 18.\n10"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that continue, converse, remember in a state, and make vectors; and one that does none of these."""
    folder = tmp_path_factory.mktemp("texts") / "runs"
    toy, source = GPT.toy()
    fourfold.fit(toy.model_copy(update={"optimizer": Gradient(lr=5e-3, steps=40)}), source, out=folder / "books")  # fmt: skip
    chats = [{"question": f"{n}?", "answer": f"It is {n}."} for n in range(60)]
    small = SFT(
        data=Conversations(unit="byte", window=128, batch=16), layers=2, width=32, heads=2, kv_heads=1,
        optimizer=Gradient(lr=5e-3, steps=40),
    )  # fmt: skip
    fourfold.fit(small, chats, out=folder / "chat")
    for cls, name in ((RNN, "loop"), (Bert, "bert")):
        toy, source = cls.toy()
        fourfold.fit(toy, source, out=folder / name)
    fourfold.fit(*_linear(), out=folder / "rents")
    return folder


def _linear() -> tuple[Any, Any]:
    from fourfold.systems.linear import LinearRegression

    return LinearRegression.toy()


@pytest.fixture(scope="module")
def served(texts: Path) -> Iterator[Threaded]:
    with Threaded(texts, limits=Limits(stop=5.0, batch=8, precision="float32")) as made:
        yield made


def client(served: Threaded, **given: Any) -> Any:
    base = f"http://127.0.0.1:{served.port}/v1"
    return openai.OpenAI(base_url=base, api_key="none", max_retries=0, timeout=60, **given)


@pytest.fixture
def ask(served: Threaded) -> Iterator[Any]:
    with client(served) as made:
        yield made


@pytest.fixture(scope="module")
def opened(texts: Path) -> dict[str, Run]:
    return {name: fourfold.open(texts / name) for name in ("books", "chat", "loop", "bert")}


def messages(*said: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]


# --- answers ----------------------------------------------------------------------------------------


def test_models(ask: Any) -> None:
    found = {model.id: model for model in ask.models.list()}
    assert found.keys() == {"books", "chat", "loop", "bert"}
    assert found["books"].endpoints == ["/v1/completions", "/v1/embeddings"]
    assert found["chat"].endpoints == ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
    assert found["bert"].endpoints == ["/v1/embeddings"]
    assert found["loop"].max_model_len is None and found["chat"].max_model_len == 128
    assert found["books"].max_model_len == 32 and found["books"].created > 1.7e9
    assert ask.models.retrieve("chat").id == "chat"
    for name in ("none", "rents"):
        with pytest.raises(openai.NotFoundError):
            ask.models.retrieve(name)


def test_a_conversation(ask: Any, opened: dict[str, Run]) -> None:
    said = messages("7?", "It is 7.", "8?")
    made = ask.chat.completions.create(model="chat", messages=said, temperature=0, max_tokens=20)
    run = opened["chat"]
    expected = "".join(run.chat("8?", messages=said[:2], temperature=0, tokens=20))
    (choice,) = made.choices
    assert (choice.message.role, choice.message.content) == ("assistant", expected)
    assert made.model == "chat" and made.object == "chat.completion"
    assert choice.finish_reason == ("stop" if made.usage.completion_tokens < 20 else "length")
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens
    assert made.usage.prompt_tokens > 20 and choice.logprobs is None
    with_system = [{"role": "developer", "content": [{"type": "text", "text": "Be brief."}]}, *said]
    again = ask.chat.completions.create(model="chat", messages=with_system, temperature=0, max_tokens=20)  # fmt: skip
    expected = "".join(run.chat("8?", messages=said[:2], system="Be brief.", temperature=0, tokens=20))  # fmt: skip
    assert again.choices[0].message.content == expected


def test_a_stream(ask: Any, opened: dict[str, Run]) -> None:
    given: Any = {"model": "chat", "messages": messages("8?"), "temperature": 0, "max_tokens": 30}
    whole = ask.chat.completions.create(**given)
    chunks = list(ask.chat.completions.create(**given, stream=True, stream_options={"include_usage": True}))  # fmt: skip
    *pieces, last = chunks
    assert len({chunk.id for chunk in chunks}) == 1 and pieces[0].choices[0].delta.role == "assistant"  # fmt: skip
    said = "".join(chunk.choices[0].delta.content or "" for chunk in pieces)
    assert said == whole.choices[0].message.content
    ends = [chunk.choices[0].finish_reason for chunk in pieces]
    assert ends == [*[None] * (len(pieces) - 1), whole.choices[0].finish_reason]
    assert not last.choices and last.usage.completion_tokens == whole.usage.completion_tokens
    plain = ask.completions.create(model="books", prompt="7 and", max_tokens=20, temperature=0, stream=True)  # fmt: skip
    text = "".join(chunk.choices[0].text for chunk in plain)
    assert text == "".join(opened["books"].generate("7 and", tokens=20, temperature=0))


def test_stop_and_the_number_of_texts(ask: Any, opened: dict[str, Run]) -> None:
    run = opened["books"]
    whole = "".join(run.generate("7 and 8", tokens=20, temperature=0))
    stop = whole[3:6]
    made = ask.completions.create(model="books", prompt="7 and 8", max_tokens=20, temperature=0, stop=["\0", stop])  # fmt: skip
    assert made.choices[0].text == whole[: whole.index(stop)]
    assert made.choices[0].finish_reason == "stop"
    several = ask.completions.create(
        model="books", prompt=PROMPTS[:3], n=2, seed=5, max_tokens=8, temperature=0.7
    )
    assert [choice.index for choice in several.choices] == list(range(6))
    drawn = list(
        run.generate(PROMPTS[:3], count=2, seed=5, tokens=8, temperature=0.7, precision="float32")
    )
    assert [f"{choice.text}\n" for choice in several.choices] == drawn
    assert several.usage.completion_tokens <= 48
    numbers = run.data.vocabulary.encode("7 and 8").tolist()
    by_number = ask.completions.create(model="books", prompt=numbers, max_tokens=20, temperature=0)
    assert by_number.choices[0].text == whole
    usual = ask.completions.create(model="books", prompt="7 and 8", temperature=0)
    assert usual.choices[0].text == whole[:16] and usual.choices[0].finish_reason == "length"


def test_log_probabilities(ask: Any, opened: dict[str, Run], served: Threaded) -> None:
    text = "7 and 8 make 15"
    each = opened["books"].score(text, per_token=True)["nats"].to_list()
    made = ask.completions.create(model="books", prompt=text, max_tokens=0, echo=True, logprobs=2)
    (choice,) = made.choices
    assert choice.text == text and choice.logprobs.tokens == list(text)
    assert choice.logprobs.token_logprobs == pytest.approx([-nats for nats in each], abs=1e-4)
    assert choice.logprobs.text_offset == list(range(len(text)))
    assert all(len(top) == 2 for top in choice.logprobs.top_logprobs)
    longer = ask.completions.create(model="books", prompt="7 and", max_tokens=4, echo=True, logprobs=0, temperature=0)  # fmt: skip
    (choice,) = longer.choices
    assert choice.text.startswith("7 and") and len(choice.logprobs.tokens) == 9
    assert choice.logprobs.token_logprobs[0] is None
    told = ask.chat.completions.create(
        model="chat", messages=messages("8?"), temperature=0, max_tokens=9, logprobs=True, top_logprobs=3,
    ).choices[0]  # fmt: skip
    content = told.logprobs.content
    assert "".join(entry.token for entry in content) == told.message.content
    for entry in content:
        assert entry.top_logprobs[0].token == entry.token  # greedy
        assert entry.top_logprobs[0].logprob == entry.logprob <= 0
        assert bytes(entry.bytes).decode() == entry.token
    total = sum(math.exp(top.logprob) for top in content[0].top_logprobs)
    assert total <= 1 + 1e-6
    # a server of ours is a model of somebody else's to another one
    other = fourfold.open(f"http://127.0.0.1:{served.port}/v1#books")
    ours, theirs = opened["books"].score(text), other.score(text)
    assert theirs.values == pytest.approx(ours.values, abs=1e-4)
    asked = {"tokens": 12, "temperature": 0}
    assert list(other.generate("7 and", **asked))[0]
    assert "".join(other.generate("7 and", **asked)) == "".join(opened["books"].generate("7 and", **asked))  # fmt: skip
    talk = fourfold.open(f"http://127.0.0.1:{served.port}/v1#chat")
    assert "".join(talk.chat("8?", **asked)) == "".join(opened["chat"].chat("8?", **asked))


def test_log_probabilities_of_a_stream_go_on(texts: Path, tmp_path: Path) -> None:
    """Pieces of a stream tell what the whole tells: places go on, and a character of several tokens stays whole."""
    said = "今天天气很好，我们去公园散步吧。" * 40
    toy, _ = GPT.toy()
    small = toy.model_copy(
        update={
            "data": Text(unit="byte", window=64, batch=8),
            "optimizer": Gradient(lr=1e-2, steps=200),
        }
    )
    fourfold.fit(small, {"text": [said]}, out=tmp_path / "runs" / "zh")
    with Threaded(tmp_path / "runs", limits=Limits(stop=2.0, precision="float32")) as served, client(served) as ask:  # fmt: skip
        given: Any = {
            "model": "zh",
            "prompt": "今天",
            "max_tokens": 55,
            "temperature": 0,
            "logprobs": 2,
        }
        whole = ask.completions.create(**given).choices[0]
        pieces = [c.choices[0] for c in ask.completions.create(**given, stream=True)]
        assert len(pieces) > 1 and "".join(p.text for p in pieces) == whole.text
        told = [p.logprobs for p in pieces if p.logprobs]
        for name in ("tokens", "text_offset", "token_logprobs", "top_logprobs"):
            assert [x for each in told for x in getattr(each, name)] == getattr(
                whole.logprobs, name
            )
        text = "".join(whole.logprobs.tokens)
        assert whole.text.startswith(text) and "\ufffd" not in text and len(text) > 8
        places = whole.logprobs.text_offset
        assert all(
            text[p : p + len(t)] == t for p, t in zip(places, whole.logprobs.tokens, strict=True)
        )


def test_bytes_are_the_tokens_own(ask: Any, opened: dict[str, Run]) -> None:
    vocabulary = opened["chat"].data.vocabulary
    number = int(vocabulary.encode("好")[1])  # the second of three bytes
    told = ask.chat.completions.create(
        model="chat", messages=messages("8?"), max_tokens=1, logit_bias={str(number): 100}, temperature=0,
        logprobs=True, top_logprobs=2,
    ).choices[0]  # fmt: skip
    (entry,) = told.logprobs.content
    assert entry.bytes == ["好".encode()[1]]
    for top in entry.top_logprobs:
        assert len(top.bytes) == 1  # of a vocabulary of bytes


def test_null_is_what_is_not_said(ask: Any) -> None:
    names = ("temperature", "top_p", "n", "stop", "seed", "stream", "logit_bias", "repetition_penalty", "max_tokens",
             "logprobs", "echo", "best_of", "suffix", "presence_penalty", "frequency_penalty", "user", "response_format")  # fmt: skip
    base = str(ask.base_url)
    plain = {"model": "books", "prompt": "7 and"}
    answers = [
        httpx.post(f"{base}completions", json={**plain, **more, "top_k": 1}).json()["choices"]
        for more in ({}, dict.fromkeys(names))
    ]
    assert answers[0] == answers[1]
    chat = {
        "model": "chat",
        "messages": messages("8?"),
        "top_k": 1,
        "top_logprobs": None,
        "tools": None,
    }
    assert httpx.post(f"{base}chat/completions", json={**chat, "temperature": None, "max_completion_tokens": None}).status_code == 200  # fmt: skip
    assert httpx.post(f"{base}embeddings", json={"model": "bert", "input": "x", "encoding_format": None}).status_code == 200  # fmt: skip


def test_an_engine_that_does_not_serve_a_run_is_said(tmp_path: Path) -> None:
    toy, source = GPT.toy()
    fourfold.fit(toy.model_copy(update={"positions": "learned"}), source, out=tmp_path / "runs" / "learned")  # fmt: skip
    with Threaded(tmp_path / "runs", limits=Limits(stop=2.0, engine="compiled")) as served, client(served) as ask:  # fmt: skip
        for streams in (False, True):
            with pytest.raises(openai.BadRequestError, match="--engine compiled: does not serve this model: it has positions"):  # fmt: skip
                list(ask.completions.create(model="learned", prompt="7", stream=streams))
        assert served.number("fourfold_calls_present") == 0
    with pytest.raises(UserError, match="learned: --engine compiled: does not serve this model"):
        _check_engine(Shelf([tmp_path / "runs"], 2), Limits(engine="compiled"))
    _check_engine(Shelf([tmp_path / "runs"], 2), Limits())


def test_json_and_biases(ask: Any, opened: dict[str, Run]) -> None:
    pytest.importorskip("llguidance")
    schema = {
        "type": "object", "required": ["it", "is"], "additionalProperties": False,
        "properties": {"it": {"type": "boolean"}, "is": {"enum": ["7.", "8."]}},
    }  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    chunks = list(ask.chat.completions.create(
        model="chat", messages=messages("8?"), response_format=form, max_tokens=60, temperature=0.8, seed=1, stream=True,
    ))  # fmt: skip
    said = json.loads("".join(chunk.choices[0].delta.content or "" for chunk in chunks))
    assert said.keys() == {"it", "is"} and said["is"] in ("7.", "8.") and chunks[-1].choices[0].finish_reason == "stop"  # fmt: skip
    cut = ask.chat.completions.create(model="chat", messages=messages("8?"), response_format=form, max_tokens=2)  # fmt: skip
    assert cut.choices[0].finish_reason == "length"
    vocabulary = opened["books"].data.vocabulary
    number = int(vocabulary.encode("m")[0])
    made = ask.completions.create(model="books", prompt="7", max_tokens=5, logit_bias={str(number): 100}, temperature=0)  # fmt: skip
    assert made.choices[0].text == "mmmmm"
    other = ask.completions.create(
        model="books", prompt="7", max_tokens=5, logit_bias={str(number): 40}, temperature=0,
        extra_body={"repetition_penalty": 50.0},
    )  # fmt: skip
    assert other.choices[0].text.startswith("m") and other.choices[0].text != "mmmmm"


def test_vectors(ask: Any, opened: dict[str, Run], served: Threaded) -> None:
    given = ["7 and 8", "9"]
    expected = opened["bert"].embed(given).drop("text").rows()
    for how in ("float", "base64"):
        made = ask.embeddings.create(model="bert", input=given, encoding_format=how)
        rows = [row.embedding for row in made.data]
        if how == "float":
            assert rows == [pytest.approx(row, abs=1e-5) for row in expected]
    own = ask.embeddings.create(model="books", input=["the cat", "猫"])
    rows = opened["books"].embed(["the cat", "猫"]).drop("text").rows()
    assert [row.embedding for row in own.data] == [pytest.approx(row, abs=1e-5) for row in rows]
    plain = ask.embeddings.create(
        model="bert", input=given[0]
    )  # the client asks for base64 by itself
    assert plain.data[0].embedding == pytest.approx(expected[0], abs=1e-5)
    assert plain.usage.prompt_tokens == len(opened["bert"].data.vocabulary.encode(given[0]))
    other = fourfold.open(f"http://127.0.0.1:{served.port}/v1#bert")
    assert other.embed(given).drop("text").rows()[1] == pytest.approx(expected[1], abs=1e-5)


def test_a_model_with_a_state(ask: Any, opened: dict[str, Run]) -> None:
    """Any language model is served, whatever it remembers by."""
    whole = "".join(opened["loop"].generate("7 and", tokens=12, temperature=0))
    made = ask.completions.create(model="loop", prompt="7 and", max_tokens=12, temperature=0)
    assert made.choices[0].text == whole
    each = opened["loop"].score("7 and 8", per_token=True)["nats"].to_list()
    told = ask.completions.create(model="loop", prompt="7 and 8", max_tokens=0, echo=True, logprobs=0)  # fmt: skip
    logprobs = told.choices[0].logprobs.token_logprobs
    assert logprobs == pytest.approx([-nats for nats in each], abs=1e-4)


# --- many at once -----------------------------------------------------------------------------------


def test_answers_at_once_are_those_alone(served: Threaded, opened: dict[str, Run]) -> None:
    """More than grow at once, chats and completions, streamed and whole: nothing lost, nothing mixed."""
    wanted = [(f"{n} and {n % 7}", 4 + n % 20, n % 3) for n in range(40)]
    found: dict[int, str] = {}

    def one(number: int) -> None:
        text, tokens, kind = wanted[number]
        with client(served) as ask:
            given: Any = {"max_tokens": tokens, "temperature": 0}
            if kind == 0:
                made = ask.completions.create(model="books", prompt=text, **given)
                found[number] = made.choices[0].text
            elif kind == 1:
                chunks = ask.completions.create(model="books", prompt=text, stream=True, **given)
                found[number] = "".join(chunk.choices[0].text for chunk in chunks)
            else:
                chunks = ask.chat.completions.create(model="chat", messages=messages(text), stream=True, **given)  # fmt: skip
                found[number] = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(len(wanted))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, (text, tokens, kind) in enumerate(wanted):
        run = opened["chat" if kind == 2 else "books"]
        alone = run.chat if kind == 2 else run.generate
        window = run.model.window
        room = tokens if kind == 2 else min(tokens, window - len(text))
        assert found[number] == "".join(alone(text, tokens=room, temperature=0)), number
    assert served.number("fourfold_calls_present") == 0
    assert served.number("fourfold_texts_growing") == 0


def test_a_shared_beginning_is_read_once(ask: Any) -> None:
    system = {"role": "system", "content": "You are an assistant who counts things, one by one."}
    cached = []
    for number in range(3):
        said = [system, *messages(f"{number}?")]
        made = ask.chat.completions.create(model="chat", messages=said, max_tokens=3, temperature=0)
        cached.append(made.usage.prompt_tokens_details.cached_tokens)
    assert min(cached[1:]) > 50


def test_who_leaves_frees_the_place(served: Threaded) -> None:
    with client(served) as ask:
        stream = ask.completions.create(model="loop", prompt="7", max_tokens=4096, stream=True)
        next(iter(stream))
        served.until(lambda: served.number("fourfold_calls_working") == 1)
        stream.close()
    served.until(lambda: served.number("fourfold_calls_present") == 0)
    with pytest.raises(openai.APITimeoutError), client(served) as ask:
        ask.completions.create(model="loop", prompt="7", max_tokens=4096, timeout=0.3)
    served.until(lambda: served.number("fourfold_calls_present") == 0)
    served.until(lambda: served.number("fourfold_texts_growing") == 0)


def test_more_than_the_limit_are_told_when_to_come_again(texts: Path) -> None:
    limits = Limits(stop=2.0, batch=1, concurrency=1, queue=1, precision="float32")
    with Threaded(texts, limits=limits) as served, client(served) as ask:
        given: Any = {"model": "loop", "prompt": "7", "max_tokens": 4096, "stream": True}
        first = ask.completions.create(**given)
        next(iter(first))
        waiting = threading.Thread(target=lambda: ask.completions.create(**{**given, "max_tokens": 1, "stream": False}))  # fmt: skip
        waiting.start()
        served.until(lambda: served.number("fourfold_calls_present") == 2)
        with pytest.raises(openai.RateLimitError) as raised:
            ask.completions.create(**given)
        assert raised.value.code == "rate_limit_exceeded"
        assert int(raised.value.response.headers["retry-after"]) >= 1
        first.close()
        waiting.join()  # it had its turn


def test_what_takes_too_long_ends_where_it_is(texts: Path, opened: dict[str, Run]) -> None:
    never = {str(opened["loop"].data.vocabulary.end): -100}  # or chance may end it sooner
    with Threaded(texts, limits=Limits(stop=2.0, seconds=0.3)) as served, client(served) as ask:
        made = ask.completions.create(model="loop", prompt="7", max_tokens=4096, logit_bias=never)
        (choice,) = made.choices
        assert choice.finish_reason == "length" and 0 < made.usage.completion_tokens < 4096
        assert len(choice.text) > 0


def test_new_weights_are_seen(texts: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "runs"
    shutil.copytree(texts / "books", folder / "books")
    given: Any = {"model": "books", "prompt": "7 and", "max_tokens": 20, "temperature": 0}
    with Threaded(folder, limits=Limits(stop=2.0)) as served, client(served) as ask:
        before = ask.completions.create(**given).choices[0].text
        toy, source = GPT.toy()
        other = fourfold.fit(toy, source, out=tmp_path / "other", seed=9)
        (other.folder / "weights.safetensors").replace(folder / "books" / "weights.safetensors")
        after = ask.completions.create(**given).choices[0].text
    assert before != after == "".join(fourfold.open(folder / "books").generate("7 and", tokens=20, temperature=0))  # fmt: skip


# --- what is wrong ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "sentence", "param"),
    [
        ({"temperature": -1}, "temperature: input should be greater than or equal to 0", "temperature"),
        ({"max_tokens": 0}, "max_tokens: expected 1 or more, or echo true", "max_tokens"),
        ({"max_tokens": 5000}, "max_tokens: 5000, expected 4,096 at most", "max_tokens"),
        ({"n": 1000}, "n: input should be less than or equal to 128", "n"),
        ({"stop": [""]}, "stop", "stop"),
        ({"prompt": "1" * 32}, "the prompt has 32 tokens, books reads 32 at once", None),
        ({"prompt": [999]}, "prompt: token 999, expected 0 to", None),
        ({"prompt": []}, "prompt: 0 prompts", "prompt"),
        ({"presence_penalty": 1}, "presence_penalty: is not done here; repetition_penalty is", "presence_penalty"),
        ({"extra_body": {"temprature": 1}}, "temprature: extra inputs are not permitted", "temprature"),
        ({"logit_bias": {"a": 1}}, "logit_bias: expected numbers of tokens as keys", "logit_bias"),
        ({"logit_bias": {"999": 1}}, "logit_bias: token 999, expected 0 to", None),
        ({"best_of": 3}, "best_of: expected what n is", "best_of"),
        ({"suffix": "x"}, "suffix: runs here continue texts at their end only", "suffix"),
        ({"logprobs": 99}, "logprobs: input should be less than or equal to 20", "logprobs"),
    ],
)  # fmt: skip
def test_malformed_completions(ask: Any, given: Any, sentence: str, param: str | None) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        ask.completions.create(**{"model": "books", "prompt": "7", **given})
    body = raised.value.body
    assert sentence in body["message"], body
    assert (body["type"], body["param"]) == ("invalid_request_error", param)
    assert body["code"] == ("context_length_exceeded" if "at once" in sentence else None)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"messages": []}, "messages: list should have at least 1 item"),
        ({"messages": messages("a", "b")}, "expected a text, or messages that end with a turn of the user"),
        ({"messages": [{"role": "wizard", "content": "a"}]}, "unknown role 'wizard'"),
        ({"messages": [{"role": "user", "content": " "}]}, "is empty"),
        ({"messages": messages("a" * 500)}, "reads 128 at once and must answer in them"),
        ({"response_format": {"type": "yaml"}}, "response_format: type 'yaml', expected text, json_object or json_schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format: expected json_schema with its schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "wizard"}}}}, "response_format: "),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools: no run here calls any"),
        ({"top_logprobs": 2}, "top_logprobs: expected beside logprobs true"),
        ({"model": "books"}, "books: is a run of gpt without a chat template"),
        ({"model": "rents"}, "rents: is a run of linear, which continues no text"),
    ],
)  # fmt: skip
def test_malformed_chats(ask: Any, given: Any, sentence: str) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        ask.chat.completions.create(**{"model": "chat", "messages": messages("a"), **given})
    assert sentence in raised.value.body["message"], raised.value.body


def test_other_errors(ask: Any, served: Threaded) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        ask.completions.create(model="bookz", prompt="7")
    body = raised.value.body
    assert body["code"] == "model_not_found" and "did you mean books?" in body["message"]
    assert body["param"] == "model"
    with pytest.raises(openai.BadRequestError, match="rents is a run of linear, which makes no vectors"):  # fmt: skip
        ask.embeddings.create(model="rents", input="x")
    with pytest.raises(openai.BadRequestError, match="dimensions: 3, this run's vectors have"):
        ask.embeddings.create(model="bert", input="x", dimensions=3)
    base = f"http://127.0.0.1:{served.port}/v1"
    for path, content, status in (
        ("/completions", b"{", 400),
        ("/completions", b"[1]", 400),
        ("/completions", b'{"model": "books", "prompt": "\xff"}', 400),
        ("/none", b"{}", 404),
    ):
        answer = httpx.post(base + path, content=content, headers={"content-type": "application/json"})  # fmt: skip
        assert answer.status_code == status, answer.text
        assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    plain = httpx.post(base + "/completions", content=b"{}").json()["error"]
    assert plain["message"].startswith("the body: expected a JSON object") and not plain["param"]
    wrong = httpx.get(base + "/completions")
    assert wrong.status_code == 405 and wrong.json()["error"]["message"] == "Method Not Allowed"


def test_a_failure_inside_is_no_other_request_s(
    texts: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who grows in the step that fails is told an id; the lane goes on with a new batch."""
    from fourfold.tasks.continuous import Batch

    plain = Batch.step

    def step(self: Batch) -> Any:
        if any(g.tokens == 13 for g in [*self.waiting, *self._alive]):
            raise ZeroDivisionError("the secret of this bug")
        return plain(self)

    monkeypatch.setattr(Batch, "step", step)
    with Threaded(texts, limits=Limits(stop=2.0)) as served, client(served) as ask:
        for streams in (False, True):
            batch = {"model": "books", "prompt": ["7", "8"], "stream": streams}
            with pytest.raises(openai.OpenAIError) as raised:
                list(ask.completions.create(**batch, max_tokens=13))
            assert "secret" not in str(raised.value) and "failed inside" in str(raised.value)
            assert ask.completions.create(model="books", prompt="7", max_tokens=3).choices
        assert served.number("fourfold_calls_present") == 0
    assert "ZeroDivisionError" in caplog.text


def test_a_token(texts: Path) -> None:
    secret = "a-token-of-some-length"
    with Threaded(texts, token=secret, limits=Limits(stop=2.0)) as served:
        with client(served) as ask, pytest.raises(openai.AuthenticationError) as raised:
            ask.models.list()
        assert raised.value.body["code"] == "invalid_api_key"
        base = f"http://127.0.0.1:{served.port}/v1"
        with openai.OpenAI(base_url=base, api_key=secret, max_retries=0) as known:
            assert known.completions.create(model="books", prompt="7", max_tokens=2).choices


def test_events_are_as_the_specification_says(served: Threaded) -> None:
    body = {"model": "books", "prompt": "7 and", "max_tokens": 5, "stream": True, "temperature": 0}
    with httpx.stream("POST", f"http://127.0.0.1:{served.port}/v1/completions", json=body) as answer:  # fmt: skip
        assert answer.headers["content-type"].startswith("text/event-stream")
        blocks = "".join(answer.iter_text()).split("\n\n")
    assert blocks[-2:] == ["data: [DONE]", ""]
    assert all(json.loads(block.removeprefix("data: ")) for block in blocks[:-2])
