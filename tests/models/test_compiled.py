"""The compiled decoder against the model itself: every shape, batch and single, full windows. See test_decoder.py too."""

from __future__ import annotations

import gc
import multiprocessing
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.kernels import team as kernel_team
from fourfold.models.compiled import BLOCK, CompiledDecoder, Pace, unsuited
from fourfold.models.generation import generate
from fourfold.models.sampling import Sampling
from fourfold.models.transformer import Transformer


def model(**changes: Any) -> Transformer:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocabulary": 13, "width": 16, "layers": 2, "heads": 4, "window": 16}
    made = Transformer(**{**sizes, **changes}).eval()
    made.initialize(0.3)  # far from uniform: an error changes the logits
    for name, weight in made.named_parameters():
        if weight.ndim < 2:
            torch.nn.init.normal_(weight, 0.0 if name.endswith("bias") else 1.0, 0.3)
    return made


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_logits_equal_the_models(data: st.DataObject) -> None:
    shared, groups = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    size = 2 * data.draw(st.integers(1, 17))
    net = model(
        vocabulary=data.draw(st.integers(2, 150)),
        width=data.draw(
            st.integers(4, 70)
        ),  # a norm of fewer is a number over itself: any error is large
        layers=data.draw(st.integers(1, 3)),
        heads=shared * groups,
        kv_heads=groups,
        head_dim=size,
        hidden=data.draw(st.integers(1, 70)),
        tied=data.draw(st.booleans()),
        bias=data.draw(st.sampled_from(["none", "qkv", "attention", "all"])),
        query_key_norm=data.draw(st.booleans()),
        sliding=data.draw(st.sampled_from([None, 1, 3])),
        scale=data.draw(st.sampled_from([None, 0.3])),
    )
    rows = data.draw(st.integers(1, 9))
    tokens = torch.randint(net.vocabulary, (rows, 9))
    decoder = CompiledDecoder(net, rows)
    with torch.no_grad():
        expected = net(tokens)
    prompt = data.draw(st.integers(1, 3))
    found = [decoder.read(range(rows), tokens[:, :prompt].tolist())]
    found += [decoder.read(range(rows), tokens[:, i : i + 1].tolist()) for i in range(prompt, 9)]
    torch.testing.assert_close(torch.stack(found, 1), expected[:, prompt - 1 :], rtol=1e-4, atol=1e-4)  # fmt: skip


def test_scaled_rotary_positions() -> None:
    net = model(rotary_scaling={"rope_type": "linear", "factor": 2.0}, base=100.0)
    tokens = torch.randint(13, (1, 12))
    decoder = CompiledDecoder(net, 1)
    found = decoder.read([0], tokens.tolist(), every=True)
    with torch.no_grad():
        torch.testing.assert_close(found, net(tokens)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_rows_of_different_lengths_equal_each_alone(kind: str) -> None:
    net = model(width=80, kv_heads=2)
    prompts = [[1, 2, 3, 4, 5], [6], [7, 8], [9] * 9, [3, 1], [2], [5]]
    rows = range(len(prompts))
    together = CompiledDecoder(net, len(prompts), kind)
    begun = together.read(rows, prompts)
    steps = [together.read(rows, [[i] for _ in rows]) for i in range(7)]
    for row, prompt in enumerate(prompts):
        alone = CompiledDecoder(net, 1, kind, weights=together.weights)
        assert torch.equal(alone.read([0], [prompt])[0], begun[row])
        for i, logits in enumerate(steps):
            assert torch.equal(alone.read([0], [[i]])[0], logits[row])


@pytest.mark.parametrize("window", [2, 7, 16])
def test_greedy_continuations_pass_full_windows_as_torchs_do(window: int) -> None:
    net = model(window=window)
    prompts = [[1], [2, 3], [4] * 20]
    said = {
        make: list(
            generate(
                net,
                prompts,
                tokens=40,
                sampling=Sampling(0.0),
                dtype=torch.float32,
                make=(lambda rows, room: CompiledDecoder(net, rows, window=room)) if make else None,
            )
        )
        for make in (False, True)
    }
    assert len(said[True]) == 120 and said[True] == said[False]


def test_int8_is_near() -> None:
    net = model(width=128, hidden=192, vocabulary=200)
    tokens = torch.randint(200, (4, 12))
    decoder = CompiledDecoder(net, 4, "int8")
    found = decoder.read(range(4), tokens.tolist(), every=True).view(4, 12, 200)
    with torch.no_grad():
        exact = net(tokens)
    error = float((found - exact).std() / exact.std())
    assert 1e-4 < error < 0.1


@pytest.mark.parametrize("kind", ["float32", "int8"])
@pytest.mark.parametrize("threads", [2, 3])
def test_threads_together_say_what_one_says(kind: str, threads: int) -> None:
    """To the last bit, whether all help, some sleep, or none is there yet."""
    net = model(width=150, hidden=140, vocabulary=300, heads=3, kv_heads=3, head_dim=10, window=64)
    alone = CompiledDecoder(net, 3, kind, threads=1)
    together = CompiledDecoder(net, 3, kind, weights=alone.weights, threads=threads)
    worked = set()
    for number in range(2_000):
        if number >= 50 and 1 in worked:  # on a busy machine helpers may come late
            break
        slots = [number % 3, (number + 1) % 3][: 1 + number % 2]
        tokens = [[number, 7] if slot else [number] for slot in slots]
        for decoder in (alone, together):
            for slot in slots:
                if decoder.lengths[slot] > 60:
                    decoder.cut(slot, 3)
        assert torch.equal(together.read(slots, tokens), alone.read(slots, tokens))
        worked.add(int(together.work.team[kernel_team.DECIDED]) & 1)
        together.pace = Pace()  # which would have one thread work by itself, were it sooner
        if number % 20 == 10:
            time.sleep(0.05)  # helpers fall asleep
        if number % 20 == 12:
            time.sleep(0.005)
    assert 1 in worked and together.work.team[kernel_team.STEP] >= 40
    team = together.work.team
    del together, decoder
    gc.collect()
    assert team[kernel_team.STOP] == 1


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_threads_that_read_at_once_do_not_meet(kind: str) -> None:
    net = model(width=128, hidden=192, vocabulary=200, window=64, layers=3)
    alone = CompiledDecoder(net, 4, kind, threads=1)
    expected = [alone.read([slot], [[slot, 5, 6]], every=True) for slot in range(4)]
    together = CompiledDecoder(net, 4, kind, weights=alone.weights, threads=1)

    def read(slot: int) -> bool:
        same = []
        for _ in range(60):
            together.cut(slot)
            same.append(torch.equal(together.read([slot], [[slot, 5, 6]], every=True), expected[slot]))  # fmt: skip
        return all(same)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(4)))


@pytest.mark.parametrize("kind", ["float32", "int8"])
@pytest.mark.parametrize(("size", "count"), [(64, 200), (32, 25), (6, 13), (100, 40)])
def test_long_texts_are_attended_to_exactly(kind: str, size: int, count: int) -> None:
    """Over many keys, of heads that are whole vectors or not: against the model, or in bytes against itself read at once."""
    net = model(width=64, heads=4, kv_heads=2, head_dim=size, window=count, vocabulary=40)
    tokens = torch.randint(40, (1, count)).tolist()
    decoder = CompiledDecoder(net, 1, kind)
    found = torch.cat([decoder.read([0], [[token]]) for token in tokens[0]])
    with torch.no_grad():
        exact = net(torch.tensor(tokens))[0]
    if kind == "float32":
        torch.testing.assert_close(found, exact, rtol=1e-4, atol=2e-4)
    assert float((found - exact).std() / exact.std()) < 0.15
    again = CompiledDecoder(net, 1, kind, weights=decoder.weights)
    assert torch.equal(again.read([0], tokens, every=True), found)


def test_keys_and_values_are_halves_beside_bytes() -> None:
    net = model(head_dim=16, heads=2, kv_heads=2)
    half, whole = CompiledDecoder(net, 2, "int8"), CompiledDecoder(net, 2)
    assert half.keys.nbytes * 2 == whole.keys.nbytes
    half.read([0], [[1, 2, 3]])
    half.copy(0, 1, 2)
    assert torch.equal(half.read([1], [[4]]), CompiledDecoder(net, 1, "int8").read([0], [[1, 2, 4]]))  # fmt: skip


def test_threads_help_where_that_is_sooner() -> None:
    for alone, together in ((1.0, 0.6), (0.6, 1.0)):
        pace, chosen = Pace(), []
        for _ in range(400):
            chosen.append(pace.together(1))
            pace.note(1, chosen[-1], together if chosen[-1] else alone)
        share = sum(chosen[50:]) / 350
        assert share > 0.95 if together < alone else share < 0.05
        assert pace.together(4) is True  # other numbers of rows are measured by themselves


def test_a_forked_process_has_helpers_of_its_own() -> None:
    net = model(width=64, vocabulary=100)
    decoder = CompiledDecoder(net, 1, threads=2)
    expected = [decoder.read([0], [[n]]) for n in range(8)]
    decoder.cut(0)

    def child(sent: Any) -> None:
        sent.send(all(torch.equal(decoder.read([0], [[n]]), e) for n, e in enumerate(expected)))

    forked = multiprocessing.get_context("fork")
    kept, sent = forked.Pipe()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # that threads do not come along is the point
        process = forked.Process(target=child, args=(sent,))
        process.start()
    assert kept.poll(60) and kept.recv()
    process.join()


def test_more_tokens_than_are_read_at_once() -> None:
    net = model(window=2 * BLOCK + 40)
    tokens = torch.randint(13, (2, BLOCK + 30))
    every, last = CompiledDecoder(net, 2), CompiledDecoder(net, 2)
    found = every.read([1, 0], tokens.tolist(), every=True).view(*tokens.shape, 13)
    with torch.no_grad():
        exact = net(tokens)
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)
    assert torch.equal(last.read([1, 0], tokens.tolist()), found[:, -1])


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"norm": "layer"}, "norm layer, not rms"),
        ({"feedforward": "gelu"}, "feedforward gelu, not swiglu"),
        ({"positions": "alibi"}, "positions alibi, not rotary"),
    ],
)
def test_other_forms_are_refused(change: dict[str, Any], reason: str) -> None:
    net = model(**change)
    assert reason in (unsuited(net) or "")
    with pytest.raises(ValueError, match=reason):
        CompiledDecoder(net, 1)
    assert unsuited(model()) is None


def test_the_model_is_not_changed_by_what_is_decoded() -> None:
    net = model()
    before = {name: weight.clone() for name, weight in net.state_dict().items()}
    CompiledDecoder(net, 1, "int8").read([0], [[1]])
    for name, weight in net.state_dict().items():
        assert torch.equal(weight, before[name])
