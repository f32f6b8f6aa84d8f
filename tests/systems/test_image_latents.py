"""Systems that take images through a vector of latents, end to end at toy size: verbs, pictures, what they refuse."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

import fourfold
from fourfold.core.errors import UserError
from fourfold.core.options import merge
from fourfold.core.run import Run
from fourfold.data.sprites import factors_of, rendered
from fourfold.systems.autoencoder import AutoencoderSystem
from fourfold.systems.control_vae import ControlVAE
from fourfold.systems.denoising import DenoisingSystem
from fourfold.systems.vae import VAE


def fitted(cls: Any, folder: Path | None = None, source: Any = None, **options: Any) -> Run:
    toy, _ = cls.toy()
    return fourfold.fit(merge(cls, options, base=toy), source, out=folder or False)


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fitted(VAE, tmp_path_factory.mktemp("vae") / "run")


def size(picture: Any) -> tuple[int, ...]:
    return np.asarray(Image.open(io.BytesIO(picture.png))).shape


def test_a_linear_autoencoder_spans_the_space_of_pca() -> None:
    """Baldi and Hornik 1989: the angles between its decoder's columns and the principal axes vanish."""
    from scipy.linalg import subspace_angles

    random = np.random.default_rng(0)
    basis = np.linalg.qr(random.normal(size=(36, 36)))[0]
    codes = random.normal(size=(1500, 36)) * np.concatenate([[40, 30, 25], np.full(33, 4.0)])
    images = np.clip(128 + codes @ basis.T, 0, 255).round().astype(np.uint8).reshape(-1, 6, 6)
    options = {"network": "dense", "hidden": (), "latents": 3, "data.batch": 1200, "optimizer": {"steps": 2000, "lr": 0.03}}  # fmt: skip
    run = fitted(AutoencoderSystem, source=images, **options)
    data: Any = run.examples()
    train = data.pixels("train").flatten(1).double().numpy()
    axes = np.linalg.svd(train - train.mean(0), full_matrices=False)[2][:3].T
    model: Any = run.model
    decoder = model.decoder.layers[0].weight.detach().double().numpy()  # (36, 3)
    assert np.degrees(subspace_angles(decoder, axes)).max() < 0.5
    error = ((train - train.mean(0)) - (train - train.mean(0)) @ axes @ axes.T) / 127.5
    with torch.no_grad():
        x = data.pixels("train").float() / 127.5 - 1
        found = float((model(x) - x).square().mean())
    assert found == pytest.approx(float((error**2).mean()), rel=1e-3)


def test_sparse_codes_are_sparser() -> None:
    dense = fitted(AutoencoderSystem, **{"optimizer.steps": 60}).encode()
    for penalty in ("kl", "l1"):
        sparse = fitted(AutoencoderSystem, **{"optimizer.steps": 60, "sparsity": 0.3, "penalty": penalty}).encode()  # fmt: skip
        numbers = [frame.select("^z_.*$").to_numpy() for frame in (sparse, dense)]
        if penalty == "l1":
            assert np.abs(numbers[0]).mean() < np.abs(numbers[1]).mean()
        else:
            on = [(1 / (1 + np.exp(-n))).mean() for n in numbers]
            assert on[0] < on[1]


@pytest.mark.parametrize("noise", ["gaussian", "masking", "salt-and-pepper"])
def test_noise_is_taken_away(noise: str) -> None:
    options = {"noise": noise, "optimizer.steps": 600, "latents": 16, "width": 8, "hidden": (64,)}
    run = fitted(DenoisingSystem, **options)
    score = run.evaluate()
    assert score["gain"] > 0.5 and score["denoised_psnr"] > score["noisy_psnr"]
    assert run.evaluate().values == score.values  # the same noise each time
    sheet = run.convert(np.zeros((3, 8, 8), np.uint8))
    assert size(sheet)[2] == 3


def test_latents_go_out_and_come_back(vae: Run, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (5, 8, 8), dtype=np.uint8)
    table = vae.encode(images)
    assert table.columns == ["z_0", "z_1", "z_2", "z_3", "file"] and len(table) == 5
    assert vae.encode().columns[-2:] == ["label", "file"]  # of the digits that were held out
    for name, write in (("z.parquet", table.write_parquet), ("z.csv", table.write_csv)):
        write(tmp_path / name)
    np.save(tmp_path / "z.npy", table.select("^z_.*$").to_numpy())
    assert vae.decode(tmp_path / "z.csv", out=tmp_path / "sheet.png") == tmp_path / "sheet.png"
    made = []
    for name in ("z.parquet", "z.csv", "z.npy"):
        vae.decode(str(tmp_path / name), out=tmp_path / Path(name).suffix[1:])
        files = sorted((tmp_path / Path(name).suffix[1:]).iterdir())
        assert len(files) == 5
        made.append(np.stack([np.asarray(Image.open(f)) for f in files]))
    assert np.array_equal(made[0], made[2]) and np.abs(made[0].astype(int) - made[1]).max() <= 1
    model: Any = vae.model
    with torch.no_grad():
        x = torch.from_numpy(images)[:, None].float() / 127.5 - 1
        shown = torch.sigmoid(model.decode(model.encode(x)))[:, 0].mul(255).round()
    assert np.array_equal(made[0], shown.byte().numpy())


def test_latents_of_another_size_are_refused(vae: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected 4 latents of an example, got an array \(2, 5\)"):
        vae.decode(np.zeros((2, 5)))
    few = pl.DataFrame({f"z_{i}": [0.5] for i in range(3)})
    with pytest.raises(
        UserError, match="expected 4 latents in columns z_0 to z_3, found 3 of them"
    ):
        vae.decode(few)
    many = pl.DataFrame({f"z_{i}": [0.5] for i in range(6)})
    with pytest.raises(UserError, match="expected 4 latents, found 6; another run made it"):
        vae.decode(many)
    np.save(tmp_path / "z.npy", np.zeros((2, 7)))
    with pytest.raises(UserError, match="expected 4 latents"):
        vae.decode(tmp_path / "z.npy")
    (tmp_path / "bad.npy").write_bytes(b"damaged")
    with pytest.raises(UserError, match="not a NumPy file of numbers"):
        vae.decode(tmp_path / "bad.npy")


def test_sampling_is_fixed_by_its_seed(vae: Run) -> None:
    assert vae.sample(count=9, seed=1).png == vae.sample(count=9, seed=1).png
    assert vae.sample(count=9, seed=1).png != vae.sample(count=9, seed=2).png


def test_traversals(vae: Run) -> None:
    sheet = vae.traverse(steps=5, rows=3)
    height, width = size(sheet)[:2]
    assert height / width == pytest.approx(3 / 5, abs=0.05)
    with pytest.raises(UserError, match="--image 999: expected below 180"):
        vae.traverse(image=999)


def test_each_row_of_a_traversal_moves_the_latent_that_it_names(
    vae: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fourfold.tasks import image_latents

    moved: list[torch.Tensor] = []
    decoded = image_latents.decoded
    monkeypatch.setattr(image_latents, "decoded", lambda run, codes: (moved.append(codes), decoded(run, codes))[1])  # type: ignore[func-returns-value]  # fmt: skip
    picture = vae.traverse(steps=5, span=2.0, rows=4, image=3)
    named = [int(n) for n in picture.caption.split("latents ")[1].split(", from")[0].split(", ")]
    image = torch.from_numpy(vae.encode().select("^z_.*$").to_numpy()[3])
    assert sorted(named) == [0, 1, 2, 3]
    for row, latent in zip(moved[0].view(4, 5, 4), named, strict=True):
        wanted = image.repeat(5, 1)
        wanted[:, latent] = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
        torch.testing.assert_close(row, wanted)


def test_bounds_are_told_in_their_order(vae: Run) -> None:
    score = vae.evaluate()
    assert score["elbo"] == pytest.approx(score["reconstruction"] + score["kl"])
    assert score["importance_bound"] <= score["elbo"] + 0.05
    assert score["bits_per_dim"] == pytest.approx(score["elbo"] / 64 / np.log(2))
    bits = score["importance_bound"] / 64 / np.log(2)
    assert score["bits_per_dim_importance"] == pytest.approx(bits)
    assert "importance_bound" not in vae.evaluate(draws=0).values
    assert any("KL of each latent" in note for note in score.notes)


@pytest.mark.parametrize("likelihood", ["gaussian", "discretised-logistic"])
def test_bits_of_eight_bit_images_fall_while_learning(likelihood: str) -> None:
    few, many = (fitted(VAE, **{"likelihood": likelihood, "optimizer.steps": n}).evaluate(draws=2) for n in (2, 150))  # fmt: skip
    assert many["bits_per_dim"] < few["bits_per_dim"]
    assert 1 < many["bits_per_dim"] < 8


def test_binary_images_are_drawn(vae: Run) -> None:
    run = fitted(VAE, binarize="stochastic")
    assert np.isfinite(run.evaluate(draws=2)["bits_per_dim"])


@pytest.mark.parametrize("objective", ["beta", "factor", "beta-tc"])
def test_every_objective_learns_and_opens_again(objective: str, tmp_path: Path) -> None:
    run = fitted(VAE, tmp_path / "run", objective=objective)
    again = fourfold.open(tmp_path / "run")
    assert again.evaluate(draws=2).values == run.evaluate(draws=2).values
    assert again.encode().equals(run.encode())


def test_a_controller_brings_the_kl_to_what_was_set(tmp_path: Path) -> None:
    goal = 6.0
    control = {"proportional": 0.01, "integral": 0.003, "most": 2.0}
    options = {"goal": goal, "latents": 8, "width": 8, "hidden": (64,), "optimizer": {"steps": 600, "control": control}}  # fmt: skip
    run = fitted(ControlVAE, tmp_path / "run", **options)
    score = run.evaluate(draws=0)
    assert score["kl"] == pytest.approx(goal, rel=0.15)
    betas = [line["beta"] for line in run.metrics.lines if "beta" in line]
    assert betas[0] < 0.05 < betas[-1]


@pytest.fixture(scope="module")
def sprites() -> Run:
    chosen = slice(None, None, 7)
    return fitted(VAE, source=rendered()[chosen])


def test_factors_of_a_table(sprites: Run, tmp_path: Path) -> None:
    chosen = slice(None, None, 7)
    factors = {name: values[chosen] for name, values in factors_of("shapes").items()}
    table = pl.DataFrame({**factors, "maker": np.zeros(len(factors["x"]), np.int64)})
    table.write_csv(tmp_path / "factors.csv")
    score = sprites.evaluate(rendered()[chosen], factors=tmp_path / "factors.csv", draws=0)
    for name in ("mig", "dci_disentanglement", "dci_completeness", "factor_vae_score", "sap"):
        assert 0 <= score[name] <= 1
    assert any("maker never changes and takes no part" in note for note in score.notes)
    with pytest.raises(
        UserError, match="factors: expected a row for each of 10 images, found 1,482"
    ):
        sprites.evaluate(rendered()[:10], factors=tmp_path / "factors.csv", draws=0)
    pl.DataFrame({"x": [1, None, 2]}).write_csv(tmp_path / "gap.csv")
    with pytest.raises(UserError, match="column x, row 2: expected a value of the factor"):
        sprites.evaluate(rendered()[:3], factors=tmp_path / "gap.csv", draws=0)
    pl.DataFrame({"x": [1, 1, 1]}).write_csv(tmp_path / "same.csv")
    with pytest.raises(UserError, match="none of the columns varies"):
        sprites.evaluate(rendered()[:3], factors=tmp_path / "same.csv", draws=0)


def test_factors_are_told_to_images_in_the_order_of_the_source(tmp_path: Path) -> None:
    """A run's splits are drawn by lot: rows of factors belong to the source's images, not to a split's."""
    from fourfold.tasks.factors import _all_latents

    images = np.repeat(np.arange(40, dtype=np.uint8)[:, None] * 6, 64, axis=1).reshape(40, 8, 8)
    run = fitted(VAE, source=images)

    def brightness(run: Run, data: Any, split: Any) -> torch.Tensor:
        return data.pixels(split).float().flatten(1).mean(1, keepdim=True)

    found, _ = _all_latents(run, None, brightness)
    assert found[:, 0].tolist() == (np.arange(40) * 6).tolist()


def test_factors_are_told_to_images_by_their_names_where_a_column_has_them(tmp_path: Path) -> None:
    random, folder = np.random.default_rng(0), tmp_path / "图"
    shades = random.permutation(40)
    for number, shade in enumerate(shades):
        name = folder / ("甲" if number % 2 else "乙") / f"{number // 2:02}.png"
        name.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), int(shade) * 6).save(name)
    run = fitted(VAE, source=str(folder))
    names = [f"{'甲' if n % 2 else '乙'}/{n // 2:02}.png" for n in range(40)]
    mixed = random.permutation(40)
    rows = pl.DataFrame({"shade": shades // 8, "file": names})
    sorted_rows = rows.sort("file")
    scores = []
    for table in (rows[mixed.tolist()], sorted_rows, sorted_rows.drop("file")):
        table.write_csv(tmp_path / "f.csv")
        scores.append(run.evaluate(str(folder), factors=tmp_path / "f.csv", draws=0))
    assert scores[0].values == scores[1].values == scores[2].values
    assert any(note.startswith("factors (shade) are measured on 40 ") for note in scores[0].notes)
    rows[:39].write_csv(tmp_path / "f.csv")
    with pytest.raises(UserError, match="factors: no row for the image .*19.png in column file"):
        run.evaluate(str(folder), factors=tmp_path / "f.csv", draws=0)
    pl.DataFrame({"shade": [1, 2, 3, 4], "file": [*names[:3], names[0]]}).write_csv(tmp_path / "f.csv")  # fmt: skip
    with pytest.raises(UserError, match="several rows for the image .*00.png"):
        run.evaluate([str(folder / n) for n in names[:3]], factors=tmp_path / "f.csv", draws=0)


def test_a_column_that_tells_each_image_alone_is_no_factor(sprites: Run) -> None:
    count = 70
    table = pl.DataFrame(
        {"x": [i % 5 for i in range(count)], "id": [f"n{i}" for i in range(count)]}
    )
    with pytest.raises(UserError, match="column id has another value for each of 70 images"):
        sprites.evaluate(rendered()[:count], factors=table, draws=0)


def test_bounds_of_a_sorted_source_are_of_all_its_classes() -> None:
    """More images than the bound is computed of: dark ones first, then bright ones."""
    run = fitted(VAE, source=np.zeros((30, 4, 4), np.uint8), steps=80)
    dark, bright = np.zeros((2, 1500, 4, 4), np.uint8)
    bright += 255
    found = [run.evaluate(images, draws=1)["importance_bound"] for images in (dark, bright, np.concatenate([dark, bright]))]  # fmt: skip
    assert found[2] == pytest.approx((found[0] + found[1]) / 2, rel=0.02)
    assert abs(found[0] - found[1]) > 0.1 * found[2]


@pytest.mark.parametrize("how", ["threshold", "stochastic"])
def test_binary_images_are_encoded_as_they_were_learned(how: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 6, 6), dtype=np.uint8)
    run = fitted(VAE, source=images, binarize=how)
    one, other = (run.evaluate(draws=3) for _ in range(2))
    assert one.values == other.values
    binary = ((images > 127) * 255).astype(np.uint8)
    codes, of_binary = (run.encode(x)["z_0"].to_numpy() for x in (images, binary))
    assert np.allclose(codes, of_binary) == (how == "threshold")
    (told,) = [note for note in one.notes if note.startswith("KL of each latent")]
    latents = sum(float(n) for n in told.rpartition(": ")[2].split(", "))
    assert latents == pytest.approx(one["kl"], abs=0.03)


def save(path: Path, size: tuple[int, int], mode: str = "L") -> None:
    random = np.random.default_rng(len(path.name))
    pixels = random.integers(0, 255, (size[1], size[0]), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def test_bad_images_are_named_and_left_out(tmp_path: Path) -> None:
    """Zero bytes, a cut file, mixed sizes and modes."""
    for number, mode in enumerate(["L", "RGB", "P", "RGBA", "LA", "1", "L", "I;16"] * 2):
        if mode == "I;16":
            Image.fromarray(np.full((9, 9), 40000, np.uint16)).save(tmp_path / f"{number}.png")
        else:
            save(tmp_path / f"{number}.png", (9 + number % 3, 9), mode)
    (tmp_path / "empty.png").write_bytes(b"")
    whole = (tmp_path / "0.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    run = fitted(VAE, source=str(tmp_path))
    notes = " ".join(run.data.summary()["notes"])
    assert "empty.png" in notes and "scaled to" in notes
    with pytest.raises(UserError, match=r"(cut|empty)\.png: does not open"):
        fitted(VAE, source=str(tmp_path), **{"data.strict": True})
    files = run.encode(str(tmp_path))["file"].to_list()
    assert len(files) == 16 and not any("empty" in name or "cut" in name for name in files)


def test_images_smaller_than_the_stride_are_refused() -> None:
    images = np.random.default_rng(0).integers(0, 255, (20, 6, 7), dtype=np.uint8)
    assert (
        fitted(VAE, source=images).encode(images).width == 5
    )  # left open, the stages follow the size
    with pytest.raises(UserError, match="6 x 7 pixels are smaller than the stride of 8 that 3 stages have; expected at most 2 stages"):  # fmt: skip
        fitted(VAE, source=images, stages=3)
    tiny = np.random.default_rng(0).integers(0, 255, (20, 1, 1), dtype=np.uint8)
    assert fitted(AutoencoderSystem, source=tiny).encode(tiny).width == 5


def test_one_image_alone_is_too_few(tmp_path: Path) -> None:
    save(tmp_path / "one.png", (9, 9))
    with pytest.raises(UserError, match="1 image: too few to split"):
        fitted(VAE, source=str(tmp_path / "one.png"))


def test_one_image_is_encoded_and_comes_back(vae: Run, tmp_path: Path) -> None:
    save(tmp_path / "one.png", (8, 8))
    table = vae.encode(str(tmp_path / "one.png"))
    assert len(table) == 1 and size(vae.decode(table))[2] == 3
    score = vae.evaluate(str(tmp_path / "one.png"), draws=2)
    assert np.isfinite(list(score.values.values())).all()


def test_sprites_are_measured_by_their_factors_however_they_were_named(tmp_path: Path) -> None:
    how: dict[str, object] = {"network": "dense", "hidden": (4,), "latents": 2, "steps": 1}
    run = fourfold.fit("vae", ["shapes"], out=tmp_path / "run", **how)  # type: ignore[arg-type]
    scores = [run.evaluate(draws=0), fourfold.open(tmp_path / "run").evaluate(draws=0), run.evaluate("shapes", draws=0)]  # fmt: skip
    assert all({"mig", "sap"} <= set(score.values) for score in scores)
    assert scores[0]["mig"] == scores[1]["mig"]


def test_a_picture_is_told_by_its_words(vae: Run) -> None:
    """At a prompt a picture shows its title, not its bytes."""
    assert (
        repr(vae.sample(count=2, seed=3)) == "Picture(title='Samples', caption='2 samples, seed 3')"
    )
