"""The vqvae system end to end at toy size: its verbs, its players, what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fourfold
from fourfold.core.errors import UserError
from fourfold.core.options import merge
from fourfold.core.run import Run
from fourfold.objectives.quantized import Codes, use
from fourfold.systems.vqvae import VectorQuantized


def fitted(folder: Path | None = None, source: object = None, **options: object) -> Run:
    toy, _ = VectorQuantized.toy()
    return fourfold.fit(merge(VectorQuantized, options, base=toy), source, out=folder or False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fitted(tmp_path_factory.mktemp("vqvae") / "run")


def test_codes_of_images_and_back(run: Run, tmp_path: Path) -> None:
    table = run.encode()
    codes = [c for c in table.columns if c.startswith("code_")]
    assert len(codes) == 4 * 4 * 2 and table["label"].n_unique() == 10
    assert table["file"].to_list() == run.examples().names["test"]  # type: ignore[attr-defined]
    table.write_parquet(tmp_path / "codes.parquet")
    folder = run.decode(tmp_path / "codes.parquet", out=tmp_path / "back")
    files = sorted(folder.glob("*.png"))
    assert len(files) == len(table)
    held = torch.cat([b["image"] for b in run.examples().batches("test")])
    with torch.no_grad():
        expected = run.model.codec(held).image  # type: ignore[operator, union-attr]
    pixels = np.stack([np.asarray(Image.open(f)) for f in files]) / 127.5 - 1
    assert np.abs(pixels - expected[:, 0].clamp(-1, 1).numpy()).max() < 0.005
    assert run.decode(table[codes].to_numpy()[:3]).png.startswith(b"\x89PNG")
    np.save(tmp_path / "codes.npy", table[codes].to_numpy()[:3])
    assert run.decode(tmp_path / "codes.npy").png == run.decode(table[codes].to_numpy()[:3]).png


def test_codes_of_another_size_are_refused(run: Run) -> None:
    table = run.encode()
    with pytest.raises(UserError, match="expected 32 codes in columns code_0 to code_31"):
        run.decode(table.drop("code_31"))
    with pytest.raises(UserError, match=r"expected 32 codes of an example, got an array \(2, 5\)"):
        run.decode(np.zeros((2, 5)))
    with pytest.raises(UserError, match="codes from 0 to 15, whole numbers; got from 0 to 16"):
        run.decode(np.full((1, 32), 16) * (np.arange(32) > 3))
    with pytest.raises(UserError, match="some that are none"):
        run.decode(np.full((1, 32), np.nan))


def test_samples_are_fixed_by_their_seed(run: Run) -> None:
    assert run.sample(count=5, seed=1).png == run.sample(count=5, seed=1).png
    assert run.sample(count=5, seed=1).png != run.sample(count=5, seed=2).png
    with pytest.raises(UserError, match="no prior to draw from"):
        fitted(prior=False).sample()


def test_evaluate_says_what_the_codes_cost(run: Run) -> None:
    score = run.evaluate()
    codes = run.encode()
    columns = torch.from_numpy(codes[[c for c in codes.columns if "code" in c]].to_numpy())
    perplexity, share = use(columns.reshape(-1, 2), 16)
    assert score["perplexity"] == pytest.approx(float(perplexity.mean()), rel=1e-6)
    assert score["codes_used"] == pytest.approx(float(share.mean()))
    assert score["psnr"] == pytest.approx(10 * np.log10(4 / score["mse"]))
    nats = score["context_nats"] * 32 / np.log(2) / 64
    assert score["bits_per_pixel"] == pytest.approx(nats)
    assert 1.0 < score["context_nats"] < np.log(16) + 0.5


def test_use_counts_codes() -> None:
    codes = torch.tensor([[0, 0], [1, 0], [2, 0], [3, 0]])
    perplexity, share = use(codes, 8)
    torch.testing.assert_close(perplexity, torch.tensor([4.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(share, torch.tensor([0.5, 0.125], dtype=torch.float64))


def test_the_prior_may_be_learned_after(tmp_path: Path) -> None:
    first = fitted(tmp_path / "codec", **{"objective.train": "codec"})
    assert first.folder is not None
    names = {line.rsplit("_")[0] for row in first.metrics.lines for line in row}
    assert "prior" not in names
    later = fourfold.fit(
        "vqvae", from_=first.folder, out=False, **{"objective.train": "prior", "steps": 8}
    )
    for name, value in first.model.codec.state_dict().items():  # type: ignore[union-attr]
        assert torch.equal(later.model.codec.state_dict()[name], value), name  # type: ignore[union-attr]
    moved = later.model.prior.state_dict(), first.model.prior.state_dict()  # type: ignore[union-attr]
    assert any(not torch.equal(moved[0][n], moved[1][n]) for n in moved[0])
    assert later.metrics.lines and later.sample(count=2, seed=0).png
    with pytest.raises(UserError, match="this run's prior has not learned"):
        first.sample(count=2)
    assert "Samples" not in [p.title for p in first.system.pictures(first)]
    with pytest.raises(UserError, match="--objective.train prior: models the codes of a codec"):
        fitted(tmp_path / "none", **{"objective.train": "prior"})
    assert not (tmp_path / "none").exists()


def test_losses_are_those_of_the_paper() -> None:
    """Mean squared error plus beta times the mean squared distance of vectors from their codes."""
    run = fitted()
    model = run.model.eval()
    batch = next(iter(run.examples().batches("test")))
    move = next(iter(Codes(commitment=0.7, train="codec").losses(model, batch)))
    vectors = model.codec.encoder(batch["image"])  # type: ignore[operator, union-attr]
    levels = model.codec.quantizer.codebook  # type: ignore[union-attr]
    codes = model.codec.encode(batch["image"])  # type: ignore[operator, union-attr]
    first = vectors - levels[0][codes[..., 0]]  # type: ignore[index]
    second = first - levels[1][codes[..., 1]]  # type: ignore[index]
    image = model.codec.decode(codes, (8, 8))  # type: ignore[operator, union-attr]
    per_image = (image - batch["image"]).square().mean((1, 2, 3)) + 0.7 * (
        first.square().mean((1, 2, 3)) + second.square().mean((1, 2, 3))
    )
    torch.testing.assert_close(move.loss, per_image.sum())


def test_images_below_the_stride_are_refused() -> None:
    with pytest.raises(UserError, match="smaller than the network's stride of 16: --stages 3"):
        fitted(stages=4)
    with pytest.raises(UserError, match="too few to split"):
        fitted(source=np.zeros((1, 8, 8), np.uint8))


@pytest.mark.slow
def test_minutes_of_training_make_digits() -> None:
    run = fourfold.fit("vqvae", out=False, steps=1500)
    score = run.evaluate()
    assert score["psnr"] > 18 and score["perplexity"] > 30


def test_the_adversarial_term_is_a_game_of_its_own() -> None:
    run = fitted(**{"objective.adversarial": 0.5, "objective.train": "codec"})
    model, batch = run.model.eval(), next(iter(run.examples().batches("test")))
    game = run.objective.losses(model, batch)
    codec, critic = next(game), next(game)
    assert (codec.player, critic.player) == ("codec", "discriminator") and not list(game)
    made = model.codec(batch["image"]).image  # type: ignore[operator, union-attr]
    patches = [model.discriminator(x) for x in (batch["image"], made)]  # type: ignore[operator]
    plain = next(iter(Codes(train="codec").losses(model, batch)))
    torch.testing.assert_close(codec.loss, plain.loss - 0.5 * patches[1].mean((1, 2)).sum())
    hinge = (1 - patches[0]).clamp(min=0).mean((1, 2)) + (1 + patches[1]).clamp(min=0).mean((1, 2))
    torch.testing.assert_close(critic.loss, hinge.sum())
    model.zero_grad()
    critic.loss.backward()  # the codec does not move with it
    assert all(p.grad is None for p in model.codec.parameters())  # type: ignore[union-attr]
    assert {"real_logit", "discriminator_loss"} <= {n for row in run.metrics.lines for n in row}


def test_without_the_term_there_is_no_discriminator(run: Run) -> None:
    assert run.model.discriminator is None
    assert not any("discriminator" in name for name in run.model.state_dict())
