"""One fit of word vectors in a process of its own, ours or gensim's, for `benchmarks.word2vec`.

    python -m benchmarks.word2vec_fits gensim text.txt out.npz '{"algorithm": "skip-gram", "loss": "negative"}'

Both get the same settings: a window of 5, 5 negatives, sub-sampling at 1e-3, a minimum count of 5, the
context's mean in CBOW, rates from `lr`, 0.025, to 0.0001. gensim reads the text itself (`corpus_file`), its
fastest way. There each of its threads counts what it has read itself against the whole, so that with two
threads the rate falls only half the way within an epoch: its settings are equal, what it does is not.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

SETTINGS: dict[str, Any] = {
    "algorithm": "skip-gram", "loss": "negative", "width": 100, "epochs": 1, "threads": 2, "seed": 1,
    "negatives": 5, "lr": 0.025,
}  # fmt: skip


def gensim(path: Path, out: Path | None, s: dict[str, Any]) -> dict[str, float]:
    """gensim's; returns seconds of training, by the clock and of the processors, and raw words of an epoch."""
    from gensim.models import Word2Vec

    tree = s["loss"] == "hierarchical"
    model = Word2Vec(
        vector_size=s["width"], window=5, negative=0 if tree else s["negatives"], hs=int(tree),
        sg=int(s["algorithm"] == "skip-gram"), sample=1e-3, min_count=5, alpha=s["lr"], min_alpha=1e-4,
        workers=s["threads"], seed=s["seed"], cbow_mean=1,
    )  # fmt: skip
    model.build_vocab(corpus_file=str(path))
    began, used = time.perf_counter(), time.process_time()
    model.train(
        corpus_file=str(path), total_words=model.corpus_total_words,
        total_examples=model.corpus_count, epochs=s["epochs"],
    )  # fmt: skip
    found = {
        "training": time.perf_counter() - began,
        "training processor": time.process_time() - used,
        "words": model.corpus_total_words,
    }
    if out is None:
        return found
    if out.suffix != ".npz":
        model.wv.save_word2vec_format(str(out), binary=True)
    else:
        kept = {"words": np.array(model.wv.index_to_key), "inputs": model.wv.vectors}
        if tree:
            codes = [model.wv.get_vecattr(w, "code") for w in model.wv.index_to_key]
            points = [model.wv.get_vecattr(w, "point") for w in model.wv.index_to_key]
            kept |= {
                "outputs": model.syn1, "begins": np.cumsum([0, *map(len, codes)]),
                "nodes": np.concatenate(points), "labels": 1.0 - np.concatenate(codes),
            }  # fmt: skip
        else:
            kept["outputs"] = model.syn1neg
        np.savez(out, **kept)
    return found


class Used:
    """Processor time of our steps, taken around each round of them."""

    def __enter__(self) -> None:
        from fourfold.optimizers import hogwild

        self.seconds, self.plain = 0.0, hogwild._Search._advance

        def advance(search: Any) -> None:
            before = time.process_time()
            self.plain(search)
            self.seconds += time.process_time() - before

        hogwild._Search._advance = advance  # type: ignore[method-assign]

    def __exit__(self, *_: Any) -> None:
        from fourfold.optimizers import hogwild

        hogwild._Search._advance = self.plain  # type: ignore[method-assign]


def ours(path: Path, out: Path | None, s: dict[str, Any]) -> dict[str, float]:
    """Ours; the same."""
    import fourfold

    options = {k: s[k] for k in ("width", "negatives", "epochs", "threads", "seed", "lr")}
    options = {k: v for k, v in options.items() if v is not None}
    name = {"contrast": {"cbow": "vlbl", "skip-gram": "ivlbl"}[s["algorithm"]]}.get(s["loss"])
    if name is None:
        options |= {"algorithm": s["algorithm"], "loss": s["loss"]}
    used = Used()
    with used:
        run = fourfold.fit(name or "word2vec", str(path), out=False, unit="space", **options)
    seconds = next(line["seconds"] for line in reversed(run.metrics.lines) if "seconds" in line)
    if out is not None and out.suffix != ".npz":
        run.export(to="word2vec", out=out)
    elif out is not None:
        model, width = run.model, s["width"]
        inputs, outputs = model.inputs.detach().numpy(), model.outputs.detach().numpy()
        kept = {
            "words": np.array(run.data.vocabulary.words),
            "inputs": inputs[:, :width], "outputs": outputs[:, :width],
        }  # fmt: skip
        if model.bias >= 0:
            kept["bias"] = outputs[:, model.bias]
        if s["loss"] == "hierarchical":
            from fourfold.objectives.words import huffman

            paths = huffman(run.data.vocabulary.counts)
            kept |= dict(zip(("begins", "nodes", "labels"), paths, strict=True))
        np.savez(out, **kept)
    words = run.data.summary()["words"]
    return {"training": seconds, "training processor": used.seconds, "words": words}


def main() -> None:
    who, path, out, settings = sys.argv[1:]
    fit = {"gensim": gensim, "fourfold": ours}[who]
    found = fit(Path(path), Path(out) if out else None, SETTINGS | json.loads(settings))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
