"""The n-gram system: its reader, real text in two scripts, the smallest corpora, options that are wrong."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fourfold
from fourfold.api import resume
from fourfold.core.errors import UserError
from fourfold.core.run import Run
from fourfold.kernels.ngram_smoothing import METHODS

POEM = "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。\n" * 8
WHOLE = {"data.split": (1, 0, 0)}


def fitted(text: str, **options: Any) -> Run:
    return fourfold.fit("ngram", {"text": [text]}, out=False, **{**WHOLE, **options})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("unit", ["word", "character", "byte"])
def test_reading_on_and_reading_at_once_agree(method: str, unit: str) -> None:
    run = fitted(POEM, smoothing=method, **{"data.unit": unit})
    reader = run.system.reader(run)  # type: ignore[attr-defined]
    tokens = np.concatenate(
        [[reader.vocabulary.end], reader.vocabulary.encode("低头望明月\n\n光x")]
    )
    nats, state = reader.surprises(tokens), reader.start()
    for i, token in enumerate(tokens[1:].tolist()):
        said = reader.next(state)
        assert said.shape == (1, len(reader.vocabulary))
        assert float(said.double().exp().sum()) == pytest.approx(1, abs=2e-6)
        assert -float(said[0, token]) == pytest.approx(nats[i], abs=1e-5)
        state = reader.push(state, torch.tensor([token]))


def test_windows_with_context_measure_what_one_pass_does() -> None:
    """The objective's batches see as many tokens before each target as the model looks back on."""
    run = fourfold.fit("ngram", {"text": [POEM]}, out=False, **{"data.split": (0.5, 0.5, 0)})
    from fourfold.core.evaluation import measure

    values = measure(run.objective, run.model, run.examples(), "valid", run.device)
    assert values["loss"] == pytest.approx(run.metrics.lines[-1]["valid.loss"], rel=1e-6)
    assert run.evaluate()["loss"] == pytest.approx(values["loss"], rel=1e-6)


@pytest.mark.parametrize("text", ["word", "a a a a a a", "a\n", "\n\n\n", "月"])
@pytest.mark.parametrize("method", METHODS)
def test_the_smallest_corpora(text: str, method: str) -> None:
    """One word, one word again and again, nothing but line ends; orders above the length of a sentence."""
    run = fitted(text, smoothing=method, order=7)
    assert math.isfinite(run.score(text)["perplexity"])
    assert math.isfinite(run.score("something quite different")["perplexity"])
    assert isinstance("".join(run.generate("a", tokens=5, seed=0)), str)


def test_threads_share_a_long_text_at_its_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    run = fitted(POEM)
    tokens = np.tile(run.examples().tokens("train")[1:], 1000)  # type: ignore[attr-defined]
    tokens = np.insert(tokens, 0, run.model.end)
    assert len(tokens) > 3 << 16
    alone = run.model.surprises(tokens)
    for threads in (2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert len(run.model._edges(tokens, threads)) == threads + 1
        np.testing.assert_array_equal(run.model.surprises(tokens), alone)


def test_bounded_memory_is_an_option() -> None:
    """A text beyond the memory allowed is counted in runs, to the same tables."""
    random = np.random.default_rng(0)
    text = " ".join(f"w{n}" for n in random.zipf(1.4, 40_000).clip(1, 5_000))
    some, all_ = fitted(text, memory=1), fitted(text)
    for name, value in all_.model.state_dict().items():
        assert torch.equal(value, some.model.state_dict()[name]), name


def test_sentences_end_what_is_looked_back_on() -> None:
    text = "a b\nc d\n" * 20
    kept, across = (fitted(text, sentences=s, order=3) for s in (True, False))
    for run, same in ((kept, True), (across, False)):
        reader = run.system.reader(run)  # type: ignore[attr-defined]
        encode = reader.vocabulary.encode
        ends = [encode("a b\nc")[-1], encode("c d\nc")[-1]]
        assert ends[0] == ends[1]
        first, second = (
            reader.surprises(np.concatenate([[0], encode(t)]))[-1] for t in ("a b\nc", "c d\nc")
        )
        assert bool(first == second) is same


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"order": 8}, "order"),
        ({"order": 0}, "order"),
        ({"smoothing": "kneser-nay"}, "smoothing"),
        ({"prune": (2, 1)}, "do not fall"),
        ({"prune": (-1,)}, "prune"),
        ({"k": 0.0}, "k"),
        ({"memory": 0}, "memory"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        fitted("a b c", **options)


def test_small_texts_say_that_discounts_are_not_their_own(tmp_path: Path) -> None:
    run = fitted("a b c d")
    assert any("stands in" in note for note in run.notes)
    assert not any("stands in" in n for n in fitted(POEM, smoothing="witten-bell").notes)


def test_pruning_leaves_out_and_still_sums_to_one() -> None:
    run, whole = fitted(POEM + "一二三四五\n", prune=(0, 1)), fitted(POEM + "一二三四五\n")
    sizes = run.model.sizes.tolist()
    assert sizes[1][0] == sizes[1][1] and sizes[2][1] < sizes[2][0]
    assert len(run.model.words) < len(whole.model.words)


def test_ctrl_c_keeps_nothing_and_resumes_to_the_same(tmp_path: Path) -> None:
    """A real signal while counting: exit by `Interrupted`, then the same tables as run through."""
    import os
    import signal

    from fourfold.core.errors import Interrupted
    from fourfold.kernels import ngram_counts

    random = np.random.default_rng(0)
    path = tmp_path / "text.txt"
    path.write_text(" ".join(map(str, random.zipf(1.4, 30_000).clip(1, 5_000))))
    inner, calls = ngram_counts._keys, []

    def interrupting(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return inner(*arguments)

    ngram_counts._keys = interrupting
    try:
        with pytest.raises(Interrupted) as stopped:
            fourfold.fit("ngram", str(path), out=tmp_path / "run", **WHOLE)
    finally:
        ngram_counts._keys = inner
    assert "begins anew" in stopped.value.after and "--resume" in stopped.value.command
    assert not (tmp_path / "run" / "weights.safetensors").exists()
    resumed = resume(tmp_path / "run")
    whole = fourfold.fit("ngram", str(path), out=False, **WHOLE)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


@pytest.mark.parametrize(
    ("unit", "method"), [("word", "modified-kneser-ney"), ("space", "good-turing")]
)
def test_kenlm_scores_every_sentence_as_we_do(tmp_path: Path, unit: str, method: str) -> None:
    """The exported ARPA read by KenLM, on the sentences of a held-out text, unknown words among them."""
    kenlm = pytest.importorskip("kenlm")
    from fourfold.data.embedded import language_reference
    from fourfold.models.arpa import escaped

    text = "\n".join(language_reference())[:60_000]
    run = fitted(text[:40_000] + "\n月光 <unk> a\n", smoothing=method, **{"data.unit": unit})
    path = run.export(out=tmp_path / "model.arpa.gz")
    model = kenlm.Model(str(path))
    vocabulary, reader = run.data.vocabulary, run.system.reader(run)  # type: ignore[attr-defined]
    lines = [line for line in text[40_000:].split("\n") if line.strip()][:200]
    assert len(lines) == 200
    for line in lines:
        tokens = vocabulary.encode(line + "\n")
        nats = reader.surprises(np.concatenate([[vocabulary.end], tokens]))
        names = [
            "<unk>" if t == vocabulary.unknown else escaped(vocabulary.token(t))
            for t in tokens[:-1]
        ]
        assert model.score(" ".join(names)) == pytest.approx(-nats.sum() / math.log(10), abs=1e-4)


def test_a_foreign_file_says_that_it_ends_no_document(tmp_path: Path) -> None:
    lines = ["\\data\\", "ngram 1=4", "", "\\1-grams:", "-99\t<s>", "-0.60206\t</s>"]
    lines += ["-0.60206\ta", "-0.30103\t<unk>", "", "\\end\\"]
    (tmp_path / "small.arpa").write_text("\n".join(lines) + "\n")
    run = fourfold.import_(tmp_path / "small.arpa", out=False)
    assert run.notes == [
        f"{tmp_path / 'small.arpa'}: has no token for the end of a document, "
        "so a generated text has as many tokens as are asked for"
    ]


def test_a_file_of_our_own_comes_back_as_a_run(tmp_path: Path) -> None:
    """A model of words between spaces goes through its ARPA file to the same scores."""
    run = fitted("the cat sat\nthe dog sat\na cat\n" * 5, **{"data.unit": "space"})
    path = run.export(out=tmp_path / "model.arpa")
    fourfold.import_(path, out=tmp_path / "run")
    again = fourfold.open(tmp_path / "run")
    assert again.system.order == 5 and not again.notes  # type: ignore[attr-defined]
    for text in ("the cat\n", "a dog sat\nsat bird"):
        assert again.score(text)["nats_per_token"] == pytest.approx(
            run.score(text)["nats_per_token"], rel=1e-6
        )


def test_a_malformed_file_makes_no_run(tmp_path: Path) -> None:
    path = fitted("a b c\nb a\n").export(out=tmp_path / "model.arpa")
    path.write_text(path.read_text().replace("\\3-grams", "\\4-grams"))
    with pytest.raises(UserError, match=r"model.arpa, line \d+: expected \\3-grams:"):
        fourfold.import_(path, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_export_says_where_it_cannot_write(tmp_path: Path) -> None:
    run = fitted("a b c")
    with pytest.raises(UserError, match="in memory only"):
        run.export()
    with pytest.raises(UserError, match="is a folder"):
        run.export(out=tmp_path)
