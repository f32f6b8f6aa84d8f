"""n-gram models of order 5 beside KenLM: words a second and peak memory of estimating, words a second of scoring.

    python -m benchmarks.ngram --lmplz /path/to/lmplz        (or lmplz on the PATH)
    python -m benchmarks.ngram --corpora                     (perplexities by order and smoothing; no peer needed)

The text is Brown, the movie reviews, WikiText-2's validation part and the first 1.2 M words of text8, one
sentence or line a line, cut at white space as it comes: 4.0 M words. It is held against WikiText-2's test part.
Each estimate runs in a process of its own: text file to model in memory, unknown words, sentence ends and
discounts alike. Scoring is of whole sentences with the same model, exported to ARPA.

lmplz is KenLM's own program (https://github.com/kpu/kenlm, LGPL); to build it: git clone that address, then
cmake -B build -DCMAKE_BUILD_TYPE=Release && cmake --build build --target lmplz (Boost is needed). The kenlm
package of Python scores: pip install kenlm.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.side_by_side import alternate, data_file, keep, medians, ratio

ORDER = 5
PLAIN = {"data.unit": "space", "data.split": (1, 0, 0), "order": ORDER}
ROUNDS = 3


def brown() -> list[str]:
    """Sentences of the Brown corpus, without tags."""
    found = []
    with zipfile.ZipFile(data_file("brown-corpus/brown.zip")) as archive:
        for name in sorted(archive.namelist()):
            if re.fullmatch(r"brown/c[a-r]\d\d", name):
                text = archive.read(name).decode("latin-1")
                found += [
                    " ".join(w.rsplit("/", 1)[0] for w in s.split()) for s in text.split("\n")
                ]
    return [line for line in found if line]


def reviews() -> list[str]:
    """Lines of the movie reviews."""
    found = []
    with tarfile.open(data_file("movie-reviews-polarity-v2/review_polarity.tar.gz")) as archive:
        for member in sorted(archive.getmembers(), key=lambda m: m.name):
            file = archive.extractfile(member) if member.name.endswith(".txt") else None
            if file is not None:
                found += file.read().decode("latin-1").split("\n")
    return [" ".join(line.split()) for line in found if line.split()]


def wikitext(part: str) -> list[str]:
    """Lines of WikiText-2; its <unk> is a word like any other here, as lmplz takes none in a text."""
    text = gzip.decompress(data_file(f"wikitext-2-valid-test/{part}.txt.gz").read_bytes()).decode()
    lines = [line.replace("<unk>", "UNK").split() for line in text.split("\n")]
    return [" ".join(line) for line in lines if line]


def text8(words: int = 25) -> list[str]:
    """The beginning of text8, which has no sentences, in lines of so many words."""
    packed = data_file("text8-prefix/text8_first.txt.gz").read_bytes()
    found = gzip.decompress(packed).decode().split()
    return [" ".join(found[i : i + words]) for i in range(0, len(found), words)]


def words_in(lines: list[str]) -> int:
    """Words and sentence ends."""
    return sum(line.count(" ") + 2 for line in lines)


# --- estimating -----------------------------------------------------------------------------------------


def estimate_ours(text: Path, arpa: Path | None) -> dict[str, float]:
    """In a process of its own: text to tables, by parts; and to an ARPA file, where one is named."""
    import fourfold
    from fourfold.core.run import Run
    from fourfold.systems.ngram import NGramModel

    fourfold.fit("ngram", {"text": ["a b\n" * 400]}, out=False, **PLAIN).score("a")  # compiled
    before = _peak()
    system = fourfold.api.configure(NGramModel, PLAIN)
    began = time.perf_counter()
    data = system.data.open(str(text))
    opened = time.perf_counter()
    tables = _tables(system, data)
    done = time.perf_counter()
    found = {
        "text": opened - began,
        "tables": done - opened,
        "before_mb": before,
        "peak_mb": _peak(),
    }
    if arpa is not None:
        run = Run(system)
        run.data, run.model = data, system.build(data)
        run.model.take(*tables)  # type: ignore[operator]
        run.export(out=arpa)
    return found


def _tables(system: Any, data: Any) -> Any:
    from fourfold.kernels import ngram_counts, ngram_smoothing

    model = system.build(data)
    levels = ngram_counts.count(
        data.tokens("train"), ORDER, model.vocabulary, model.end, model.stop
    )
    return ngram_smoothing.smooth(levels, "modified-kneser-ney", model.end, model.stop)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _ours(text: Path, arpa: Path | None = None) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.ngram", "--child", str(text), str(arpa or "")]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _lmplz(program: str, text: Path, arpa: Path, *options: str) -> dict[str, float]:
    began = time.perf_counter()
    command = [program, "-o", str(ORDER), "--text", str(text), "--arpa", str(arpa), *options]
    made = subprocess.run(command, check=True, capture_output=True, text=True, cwd=text.parent)
    seconds = time.perf_counter() - began
    peak = re.search(r"RSSMax:(\d+) kB", made.stderr)
    return {"seconds": seconds, "peak_mb": int(peak[1]) / 1024 if peak else float("nan")}


def estimate(program: str, text: Path, words: int) -> dict[str, Any]:
    """Both, turn by turn: seconds from text to model."""
    nowhere, parts, peaks = Path("/dev/null"), [], {}

    def ours() -> float:
        found = _ours(text)
        parts.append(found)
        return found["text"] + found["tables"]

    def peer(name: str, *options: str) -> Any:
        def measure() -> float:
            found = _lmplz(program, text, nowhere, *options)
            peaks[name] = found["peak_mb"]
            return found["seconds"]

        return measure

    names = ("lmplz", "lmplz -S 400M")
    found = alternate(
        {"ours": ours, names[0]: peer(names[0]), names[1]: peer(names[1], "-S", "400M")}, ROUNDS
    )
    seconds = medians(found)
    return {
        "words": words,
        "seconds": found,
        "million_words_a_second": {name: words / s / 1e6 for name, s in seconds.items()},
        "lmplz_time_by_ours": {name: 1 / ratio(found, "ours", name) for name in names},
        "ours_by_parts": {k: float(np.median([p[k] for p in parts])) for k in parts[0]},
        "peak_mb": {"ours": parts[-1]["peak_mb"], **peaks},
    }


# --- scoring --------------------------------------------------------------------------------------------


def score(arpa: Path, lines: list[str]) -> dict[str, Any]:
    """Words a second of scoring whole sentences, ours from strings and from numbers, KenLM's from strings."""
    import kenlm
    import torch

    from fourfold.systems.ngram import NGramModel

    _, data, model, _ = NGramModel.imported(arpa)
    peer, words = kenlm.Model(str(arpa)), words_in(lines)
    text = "\n".join(lines) + "\n"
    vocabulary = data.vocabulary  # type: ignore[attr-defined]
    tokens = np.insert(vocabulary.encode_many([text])[0], 0, vocabulary.end)
    sums: dict[str, float] = {}

    def timed(name: str, call: Any, threads: int = 1) -> Any:
        def measure() -> float:
            torch.set_num_threads(threads)
            began = time.perf_counter()
            for _ in range(3):
                sums[name] = call()
            return words * 3 / (time.perf_counter() - began) / 1e6

        return measure

    def from_text() -> float:
        found = np.insert(vocabulary.encode_many([text])[0], 0, vocabulary.end)
        return -float(model.surprises(found).sum())  # type: ignore[operator]

    def from_tokens() -> float:
        return -float(model.surprises(tokens).sum())  # type: ignore[operator]

    def kenlm_() -> float:
        return sum(peer.score(line) for line in lines) * float(np.log(10))

    found = alternate(
        {
            "ours, from token numbers": timed("tokens", from_tokens),
            "ours, from token numbers, 2 threads": timed("tokens", from_tokens, 2),
            "ours, from text": timed("text", from_text),
            "ours, from text, 2 threads": timed("text", from_text, 2),
            "kenlm, from text": timed("kenlm", kenlm_),
        },
        2 * ROUNDS,
    )
    perplexity = {name: float(np.exp(-value / words)) for name, value in sums.items()}
    assert abs(sums["tokens"] - sums["kenlm"]) < 1e-4 * words, perplexity
    return {
        "words": words,
        "million_words_a_second": medians(found),
        "rounds": found,
        "by_kenlm": {name: ratio(found, name, "kenlm, from text") for name in found},
        "perplexity": perplexity,
    }


# --- perplexities ---------------------------------------------------------------------------------------


def corpora() -> dict[str, Any]:
    """Perplexity of a held-out token by smoothing and order, on Brown's own split and WikiText-2, valid to test.

    Words between spaces, line ends among them; all of a training text's words are the vocabulary, what is not
    in it is <unk>.
    """
    import fourfold
    from fourfold.kernels.ngram_smoothing import METHODS

    def text(part: str) -> dict[str, list[str]]:
        packed = data_file(f"wikitext-2-valid-test/{part}.txt.gz").read_bytes()
        return {"text": [gzip.decompress(packed).decode()]}

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "brown.txt"
        file.write_text("\n".join(brown()) + "\n", encoding="utf-8")
        for name, train, test in (
            ("brown", str(file), None),
            ("wikitext-2", text("valid"), text("test")),
        ):
            split = {"data.split": (0.9, 0.05, 0.05) if test is None else (1, 0, 0)}
            for method in METHODS:
                for order in range(1, 8) if method == "modified-kneser-ney" else (3, 5):
                    run = fourfold.fit(
                        "ngram", train, out=False, smoothing=method, order=order,
                        **{"data.unit": "space", **split},
                    )  # fmt: skip
                    said = run.evaluate(test)
                    values = {k: said[k] for k in ("perplexity", "bits_per_byte", "tokens")}
                    found.setdefault(name, {})[f"{method}, order {order}"] = values
                    print(name, method, order, f"{said['perplexity']:.2f}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lmplz", default=shutil.which("lmplz"), help="KenLM's lmplz")
    parser.add_argument("--corpora", action="store_true", help="perplexities on real corpora only")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        text, arpa = arguments.child
        print(json.dumps(estimate_ours(Path(text), Path(arpa) if arpa else None)))
        return
    if arguments.corpora:
        keep("ngram", {"perplexity": corpora()})
        return
    if arguments.lmplz is None or not Path(arguments.lmplz).exists():
        sys.exit("lmplz is needed: --lmplz PATH; how to build it stands at the head of this file")
    train, test = [*brown(), *reviews(), *wikitext("valid"), *text8()], wikitext("test")
    with tempfile.TemporaryDirectory() as folder:
        text, arpas = Path(folder) / "text.txt", [Path(folder) / f"{n}.arpa" for n in ("a", "b")]
        text.write_text("\n".join(train) + "\n", encoding="utf-8")
        program = str(Path(arguments.lmplz).resolve())
        result = estimate(program, text, words_in(train))
        print(json.dumps(result, indent=2), flush=True)
        keep("ngram", {"estimate": result})
        _ours(text, arpas[0])
        _lmplz(program, text, arpas[1])
        scored = score(arpas[0], test)
        scored["perplexity"]["lmplz's own model, by kenlm"] = _perplexity(arpas[1], test)
    print(json.dumps(scored, indent=2))
    keep("ngram", {"score": scored})


def _perplexity(arpa: Path, lines: list[str]) -> float:
    import kenlm

    model = kenlm.Model(str(arpa))
    return float(10 ** (-sum(model.score(line) for line in lines) / words_in(lines)))


if __name__ == "__main__":
    main()
