"""Every system of word vectors on one small text: what its vectors know, and gensim's FastText beside the n-grams.

    python -m benchmarks.word_vectors [NAME ...]  # FOURFOLD_DATA holds text8-prefix and word-tests

The first 1.17 million words of text8, width 100, window 5, five epochs, one thread, seeds 0, 1 and 2. Known:
279 of WordSim-353's pairs, 6,571 of the 19,544 analogies.
"""

from __future__ import annotations

import gzip
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.side_by_side import keep

FITS: dict[str, dict[str, Any]] = {
    "word2vec": {},
    "word2vec --algorithm cbow": {"algorithm": "cbow"},
    "word2vec --loss hierarchical": {"loss": "hierarchical"},
    "vlbl": {},
    "vlbl --negatives 25": {"negatives": 25},
    "ivlbl": {},
    "ivlbl --negatives 25": {"negatives": 25},
    "word2vec --subwords": {"subwords": True},
    "word2vec --subwords --lr 0.025": {"subwords": True, "lr": 0.025},
}
SEEDS = (0, 1, 2)
DATA = Path(os.environ.get("FOURFOLD_DATA", "data"))
TEXT = DATA / "text8-prefix" / "text8_first.txt.gz"
PAIRS = DATA / "word-tests" / "EN-WS-353-ALL.txt"
QUESTIONS = DATA / "word-tests" / "questions-words.txt"


def ours(command: str) -> dict[str, float]:
    """Means over seeds, and deviations."""
    import fourfold

    found: dict[str, list[float]] = {"WordSim-353": [], "analogies": [], "seconds of training": []}
    for seed in SEEDS:
        run = fourfold.fit(
            command.split()[0], str(TEXT), out=False, epochs=5, threads=1, seed=seed, device="cpu",
            **FITS[command],
        )  # fmt: skip
        found["WordSim-353"].append(run.evaluate(str(PAIRS))["spearman"])
        found["analogies"].append(run.evaluate(str(QUESTIONS))["accuracy"])
        found["seconds of training"].append(
            max(line.get("seconds", 0) for line in run.metrics.lines)
        )
    return _told(found)


def fasttext() -> dict[str, float]:
    """gensim's FastText, with its defaults but for skip-gram, the buckets, and one worker."""
    from gensim.models import FastText

    import fourfold
    from fourfold.data.vector_files import write_vectors

    words = gzip.open(TEXT, "rt").read().split()
    sentences = [words[i : i + 10_000] for i in range(0, len(words), 10_000)]
    found: dict[str, list[float]] = {"WordSim-353": [], "analogies": [], "seconds of training": []}
    for seed in SEEDS:
        model = FastText(vector_size=100, sg=1, workers=1, bucket=200_000, seed=seed)
        model.build_vocab(sentences)
        began = time.perf_counter()
        model.train(sentences, total_examples=len(sentences), epochs=5)
        found["seconds of training"].append(time.perf_counter() - began)
        path = Path(os.environ.get("TMPDIR", "/tmp")) / f"fasttext-{os.getpid()}.bin"
        write_vectors(path, model.wv.index_to_key, model.wv.vectors, "word2vec")
        run = fourfold.import_(path, out=False)
        path.unlink()
        found["WordSim-353"].append(run.evaluate(str(PAIRS))["spearman"])
        found["analogies"].append(run.evaluate(str(QUESTIONS))["accuracy"])
    return _told(found)


def _told(found: dict[str, list[float]]) -> dict[str, float]:
    told = {name: round(statistics.mean(values), 4) for name, values in found.items()}
    return told | {f"{n}, deviation": round(statistics.stdev(v), 4) for n, v in found.items()}


def main() -> None:
    """Measure what is named, or everything."""
    for name in sys.argv[1:] or [*FITS, "gensim FastText"]:
        result = fasttext() if name == "gensim FastText" else ours(name)
        print(name, result, flush=True)
        keep("word_vectors", {name: result})


if __name__ == "__main__":
    main()
