"""Word vectors beside gensim: speed, what the vectors are worth, and a made text with known analogies.

    python -m benchmarks.word2vec speed --loss negative --width 100     # alternating, two threads each
    python -m benchmarks.word2vec threads                               # ours with one thread and with two
    python -m benchmarks.word2vec quality --width 100 --epochs 1        # three seeds
    python -m benchmarks.word2vec planted

The text is Brown, the movie reviews and the stored parts of WikiText-2 and text8, 4.2 M words, tokenized once
(`word2vec_text`); repeated for speed. A fit is a process of its own (`word2vec_fits`); one measure serves
all (`word2vec_scores`). Speed is in raw words: those of the text, times epochs, frequent or not.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import word2vec_scores as scores
from benchmarks import word2vec_text as text
from benchmarks.side_by_side import alternate, keep, medians, ratio

FOLDER = Path(tempfile.gettempdir()) / "w2v"
"""The text, and fitted vectors, which are not made again."""
SEEDS = (1, 2, 3)
METHODS = {
    "negative": ("skip-gram", "negative"),
    "cbow": ("cbow", "negative"),
    "hierarchical": ("skip-gram", "hierarchical"),
}
NAMES = {
    "negative": "skip-gram, 5 negatives",
    "cbow": "CBOW, 5 negatives",
    "hierarchical": "skip-gram, hierarchical softmax",
}


def fit(who: str, path: Path, out: Path | str, settings: dict[str, Any]) -> dict[str, float]:
    """One fit in a process of its own: seconds of training and of the whole process, raw words."""
    command = [sys.executable, "-m", "benchmarks.word2vec_fits", who, str(path), str(out)]
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*command, json.dumps(settings)], capture_output=True, text=True, check=True
    )
    whole, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found | {"whole": whole, "whole processor": used}


def speed(method: str, width: int, times: int, epochs: int, rounds: int) -> None:
    """Words a second of training, and of the whole process from its start to the vectors on disk, in one form."""
    algorithm, loss = METHODS[method]
    path = text.repeated(text.write(FOLDER)[0], times)
    settings = {"algorithm": algorithm, "loss": loss, "width": width, "epochs": epochs}
    found: dict[str, list[dict[str, float]]] = {"fourfold": [], "gensim": []}
    fit(
        "fourfold", text.write(FOLDER)[0], "", settings | {"epochs": 1}
    )  # compiled once, as ever after
    with tempfile.TemporaryDirectory() as folder:

        def timed(who: str) -> float:
            out = Path(folder) / f"{who}{len(found[who])}.bin"
            found[who].append(fit(who, path, out, settings))
            return found[who][-1]["whole"]

        alternate({who: lambda who=who: timed(who) for who in found}, rounds)  # type: ignore[misc]
    result: dict[str, Any] = {"raw words": int(found["gensim"][0]["words"]) * epochs}
    for part in ("training", "whole", "training processor", "whole processor"):
        rates = {w: [f["words"] * epochs / f[part] for f in some] for w, some in found.items()}
        result[f"words a second, {part}"] = {w: round(v) for w, v in medians(rates).items()}
        result[f"times as fast, {part}"] = round(ratio(rates, "fourfold", "gensim"), 2)
        result[f"seconds, {part}"] = {w: [round(f[part], 2) for f in s] for w, s in found.items()}
    print(json.dumps(result, indent=1))
    keep("word2vec", {f"speed: {NAMES[method]}, width {width}, {epochs} epoch(s)": result})


def threads(method: str, width: int, times: int, rounds: int) -> None:
    """Ours with one thread and with two."""
    algorithm, loss = METHODS[method]
    path = text.repeated(text.write(FOLDER)[0], times)
    settings = {"algorithm": algorithm, "loss": loss, "width": width, "epochs": 1}

    def timed(count: int) -> float:
        found = fit("fourfold", path, "", settings | {"threads": count})
        return found["words"] / found["training"]

    rates = alternate({"two": lambda: timed(2), "one": lambda: timed(1)}, rounds)
    result = {
        "words a second, training": {w: round(v) for w, v in medians(rates).items()},
        "times as fast": round(ratio(rates, "two", "one"), 2),
        "raw words": times * 4_197_023,
    }
    print(result)
    keep("word2vec", {f"threads: {NAMES[method]}, width {width}": result})


CONTENDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gensim": ("gensim", {}),
    "gensim, one thread": ("gensim", {"threads": 1}),
    "fourfold, the same rates": ("fourfold", {}),
    "fourfold, the same rates, one thread": ("fourfold", {"threads": 1}),
    "fourfold, its own rates": ("fourfold", {"lr": None}),
}
BILINEAR: dict[str, tuple[str, dict[str, Any]]] = {
    "ivlbl": ("fourfold", {"algorithm": "skip-gram", "loss": "contrast", "lr": None}),
    "vlbl": ("fourfold", {"algorithm": "cbow", "loss": "contrast", "lr": None}),
}


def vectors_of(who: str, settings: dict[str, Any], path: Path) -> scores.Vectors:
    """Fitted vectors, from the folder if they are there."""
    name = "-".join(str(settings[k]) for k in ("algorithm", "loss", "width", "epochs", "seed"))
    out = (
        FOLDER / "fits" / f"{who}-{path.stem}-{name}-t{settings['threads']}-lr{settings['lr']}.npz"
    )
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        fit(who, path, out, settings)
    return scores.Vectors(out)


def measured(
    vectors: scores.Vectors, held: scores.HeldOut, settings: dict[str, Any]
) -> dict[str, Any]:
    """Every measure of one fit."""
    together = settings["algorithm"] == "cbow"
    found = {
        "WordSim-353": scores.similarity(vectors, "EN-WS-353-ALL.txt"),
        "SimLex-999": scores.similarity(vectors, "EN-SIMLEX-999.txt"),
        "analogies": scores.share(scores.answered(vectors, scores.google())),
    }
    if settings["loss"] != "contrast":
        found["held-out loss"] = {"value": held.loss(vectors, together=together)}
    if not together:
        found["held-out loss over all words"] = {"value": held.normalized(vectors)}
    return found


def summary(some: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and deviation over seeds, and the mean ends of the bootstrap intervals."""
    found: dict[str, Any] = {}
    for name in some[0]:
        values = [one[name]["value"] for one in some]
        found[name] = {
            "mean": round(statistics.mean(values), 4),
            "deviation": round(statistics.stdev(values), 4),
            "seeds": [round(v, 4) for v in values],
        }
        if "low" in some[0][name]:
            ends = [statistics.mean(one[name][end] for one in some) for end in ("low", "high")]
            found[name]["interval"] = [round(end, 4) for end in ends]
    return found


def quality(width: int, epochs: int, chosen: list[str] | None) -> None:
    """What the vectors of each contender are worth."""
    train, held_path = text.write(FOLDER)
    held = scores.HeldOut(held_path, train)
    for method in chosen or [*METHODS, "bilinear"]:
        contenders = BILINEAR if method == "bilinear" else CONTENDERS
        algorithm, loss = METHODS.get(method, ("", ""))
        result = {}
        for name, (who, changed) in contenders.items():
            settings = {
                "algorithm": algorithm, "loss": loss, "width": width, "epochs": epochs, "threads": 2,
                "lr": 0.025, **changed,
            }  # fmt: skip
            if settings["threads"] == 1 and (width, epochs) != (100, 1):
                continue  # what the rates do is seen where it counts most
            result[name] = summary(
                [
                    measured(
                        vectors_of(who, settings | {"seed": s}, train), held, settings | {"seed": s}
                    )
                    for s in SEEDS
                ]
            )
            print(name, {k: v["mean"] for k, v in result[name].items()}, flush=True)
        title = NAMES.get(method, "vLBL and ivLBL")
        keep("word2vec", {f"quality: {title}, width {width}, {epochs} epoch(s)": result})


def planted() -> None:
    """Known analogies of a made text."""
    path, questions = text.planted(FOLDER)
    result: dict[str, Any] = {}
    for who in ("gensim", "fourfold"):
        for method, (algorithm, loss) in METHODS.items():
            shares = []
            for seed in SEEDS:
                settings = {
                    "algorithm": algorithm,
                    "loss": loss,
                    "width": 50,
                    "epochs": 5,
                    "seed": seed,
                }
                settings |= {"threads": 2, "lr": 0.025}
                right = scores.answered(vectors_of(who, settings, path), questions)
                assert len(right) == len(questions)
                shares.append(float(np.mean(right)))
            result.setdefault(NAMES[method], {})[who] = {
                "mean": round(statistics.mean(shares), 4), "seeds": [round(s, 4) for s in shares],
            }  # fmt: skip
    print(json.dumps(result, indent=1))
    keep("word2vec", {"planted analogies answered, width 50, 5 epochs": result})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="?", choices=["speed", "threads", "quality", "planted"])
    parser.add_argument("--loss", choices=[*METHODS, "bilinear"], help="one method; all otherwise")
    parser.add_argument("--width", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--times", type=int, default=5, help="repeat the text so often, for speed")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    chosen = [given.loss] if given.loss else list(METHODS)
    if given.what in ("speed", None):
        for method in chosen:
            speed(method, given.width, given.times, given.epochs, given.rounds)
    if given.what in ("threads", None):
        threads(chosen[0], given.width, given.times, given.rounds)
    if given.what in ("quality", None):
        quality(given.width, given.epochs, [given.loss] if given.loss else None)
    if given.what in ("planted", None):
        planted()


if __name__ == "__main__":
    main()
