"""The verbs explain and inspect on every system of the index that has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import fourfold
from fourfold.core.errors import UserError
from fourfold.core.registry import index, load_system
from fourfold.core.run import Run
from fourfold.core.types import Explanation
from fourfold.systems.gan import GAN
from fourfold.systems.gpt import GPT
from fourfold.systems.linear import LinearRegression
from fourfold.tasks.looking import Explaining, batch_of

EXPLAINED = ["linear", *(n for n in index() if issubclass(load_system(n), Explaining))]
"""Tables answer another question first, and this one when they are asked for the graph."""


def fitted(system: Any, **options: Any) -> Run:
    toy, source = system.toy()
    return fourfold.fit(toy, source, out=False, **options)


def graph(run: Run, source: Any = None, **options: Any) -> Explanation:
    """The graph of a run, also of systems whose own `explain` answers another question first."""
    with torch.no_grad():
        return Explaining.explain(run.system, run, source, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def gan() -> Run:
    return fitted(GAN, steps=2)


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> Run:
    toy, source = GPT.toy()
    folder = tmp_path_factory.mktemp("runs")
    text = folder / "sums.txt"
    text.write_text(source["text"][0], encoding="utf-8")
    return fourfold.fit(toy, text, out=folder / "gpt", steps=4)


def test_the_index_knows_the_inherited_verbs() -> None:
    assert {"gpt", "gan"} <= set(EXPLAINED)
    assert all("explain" in index()[name].verbs for name in EXPLAINED)
    assert {"explain", "inspect"} <= set(index()["gpt"].verbs)


@pytest.mark.parametrize("name", EXPLAINED)
def test_every_system_explains_its_toy(name: str) -> None:
    run = fitted(load_system(name))
    found = graph(run, examples=3)
    assert isinstance(found, Explanation) and found.pictures and found.tables
    total = sum(p.numel() for p in run.model.parameters())
    assert f"{total:,} parameters" in found.sentences[0] and (
        "3 examples" in found.sentences[0] or not run.data.divisible
    )
    for picture in found.pictures:
        assert picture.png.startswith(b"\x89PNG") and picture.caption


def test_a_text_run(gpt: Run) -> None:
    found = gpt.explain("3 and 4 make 7.", module="blocks.1.attention")
    titles = [p.title for p in found.pictures]
    assert titles[:3] == ["Computation graph", "Inside blocks.1.attention", "Attention"]
    assert titles[3].startswith("Embeddings of the ")
    assert "1 example of the given text" in found.sentences[0]
    assert "a mean over 15 tokens" in found.sentences[1]
    heads = next(t for t in found.tables if t.title == "Attention heads")
    assert [row[:2] for row in heads.rows] == [
        (f"blocks.{i}.attention", head) for i in (0, 1) for head in (0, 1)
    ]
    assert heads.rows[0][2] <= 15


def test_the_loss_is_the_scores(gpt: Run) -> None:
    found = gpt.explain("3 and 4 make 7.")
    assert f"The loss is {gpt.score('3 and 4 make 7.')['nats_per_token']:.3f}" in found.sentences[1]


def test_what_a_source_is(gpt: Run) -> None:
    Path("more.txt").write_text("1 and 2 make 3. " * 20, encoding="utf-8")
    literal, said = batch_of(gpt, "more.txt", 4)
    assert said == "1 example of the given text" and int((literal["targets"] >= 0).sum()) == 8
    file, said = batch_of(gpt, Path("more.txt"), 4)
    assert said == "4 examples of more.txt" and len(file["tokens"]) == 4
    own, said = batch_of(gpt, None, 2)
    assert said == "2 examples on its own test split" and len(own["tokens"]) == 2
    with pytest.raises(UserError, match="no such file"):
        batch_of(gpt, Path("none.txt"), 4)
    with pytest.raises(UserError, match="no text"):
        batch_of(gpt, "", 4)


def test_a_landscape_where_it_is_asked_for(gan: Run) -> None:
    run = fitted(LinearRegression)
    before = {n: v.clone() for n, v in run.model.state_dict().items()}
    found = graph(run, landscape=True)
    assert found.pictures[-1].title == "Loss landscape"
    assert (
        f"It is {float(found.sentences[1].split()[3].rstrip(',')):.2f}"[:6]
        in found.pictures[-1].caption
    )
    assert all(torch.equal(v, before[n]) for n, v in run.model.state_dict().items())
    with pytest.raises(UserError, match="a game of discriminator and generator"):
        gan.explain(landscape=True)


def test_unknown_modules_are_named(gpt: Run) -> None:
    with pytest.raises(UserError, match="no such module was called; did you mean blocks.1"):
        gpt.explain("3 and 4", module="blocks.7")
    with pytest.raises(UserError, match="nothing inside it to draw"):
        gpt.explain("3 and 4", module="norm")


def test_a_game_shows_both_players(gan: Run) -> None:
    found = gan.explain()
    titles = [p.title for p in found.pictures]
    assert titles == ["Computation graph: discriminator", "Computation graph: generator"]
    assert found.sentences[1].startswith("discriminator: the loss is")


def test_a_table_run_takes_rows() -> None:
    run = fitted(LinearRegression)
    frame = run.examples().rows.frame().head(5)  # type: ignore[attr-defined]
    found = graph(run, frame, examples=3)
    assert "3 examples of DataFrame in memory" in found.sentences[0]
    assert found.pictures[0].title == "Computation graph"


def test_inspect_judges(gpt: Run) -> None:
    found = gpt.inspect("3 and 4 make 7. " * 8, examples=3)
    assert found.sentences[0].startswith("Verdict: ") and found.sentences[-1].startswith(
        "Seen: 3 ex"
    )
    assert found.title == "gpt" and found.pictures


def test_explaining_twice_is_the_same_but_for_time(gpt: Run) -> None:
    first, second = (gpt.explain("3 and 4").tables[0] for _ in range(2))
    still = [i for i, c in enumerate(first.columns) if c != "forward (ms)"]
    assert json.dumps([[r[i] for i in still] for r in first.rows]) == json.dumps(
        [[r[i] for i in still] for r in second.rows]
    )


def test_padding_is_not_looked_at(tmp_path: Path) -> None:
    from fourfold.tasks.looking import batch_of

    run = fourfold.fit(
        "gpt",
        {"text": ["to be or not to be " * 60]},
        out=False,
        steps=2,
        window=32,
        layers=1,
        width=16,
        heads=2,
    )
    batch, _ = batch_of(run, "to be or", 4)
    assert batch["tokens"].shape == batch["targets"].shape and 0 < batch["tokens"].shape[1] < 32
    assert bool((batch["targets"] != -100).all())
