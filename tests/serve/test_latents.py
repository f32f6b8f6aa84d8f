"""Latents over HTTP: what `encode` gives goes back into `decode`, whatever the system reads otherwise."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

import fourfold
from fourfold.core.system import System
from fourfold.systems.text_vae import TextVAE
from fourfold.systems.vae import VAE
from fourfold.systems.vqvae import VectorQuantized
from serving import Client


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of three systems whose latents are tables."""
    folder = tmp_path_factory.mktemp("latents")
    systems: dict[str, type[System]] = {"vae": VAE, "vqvae": VectorQuantized, "text": TextVAE}
    for name, cls in systems.items():
        toy, source = cls.toy()
        fourfold.fit(toy, source, out=folder / name)
    return folder


@pytest.mark.parametrize("name", ["vae", "vqvae"])
def test_latents_of_images_come_back_as_images(client: Client, latents: Path, name: str) -> None:
    http, run = client(latents), fourfold.open(latents / name)
    table = run.encode().head(4)
    expected = np.asarray(Image.open(io.BytesIO(run.decode(table).png)))
    csv = table.write_csv().encode()
    body = {"accept": "image/png", "content-type": "text/csv"}
    answers = [
        http.post(f"/runs/{name}/decode", content=csv, headers=body),
        http.post(f"/runs/{name}/decode", files={"source": ("z.csv", csv)}, headers={"accept": "image/png"}),
        http.post(f"/runs/{name}/decode", json={"source": table.to_dicts()}, headers={"accept": "image/png"}),
    ]  # fmt: skip
    for answer in answers:
        assert answer.status_code == 200, answer.text
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), expected)
    few = table.drop(table.columns[0]).to_dicts()
    wrong = http.post(f"/runs/{name}/decode", json={"source": few})
    assert wrong.status_code == 422 and "expected" in wrong.text and "found" in wrong.text


def test_latents_of_sentences_come_back_as_sentences(client: Client, latents: Path) -> None:
    run = fourfold.open(latents / "text")
    table = run.encode(["the food was good .", "the room was bad ."])
    answer = client(latents).post("/runs/text/decode", json={"source": table.to_dicts()})
    assert answer.json()["text"] == run.decode(table)


def test_factors_are_a_table_beside_images(client: Client, latents: Path) -> None:
    run = fourfold.open(latents / "vae")
    images, rows = [], []
    for number in range(12):
        file = io.BytesIO()
        Image.new("L", (8, 8), 20 * number).save(file, "PNG")
        images.append(("source", (f"{number}.png", file.getvalue())))
        rows.append(str(number % 3))
    factors = pl.DataFrame({"shade": rows}).write_csv().encode()
    answer = client(latents).post(
        "/runs/vae/evaluate", files=[*images, ("factors", ("f.csv", factors))], data={"draws": "0"}
    )
    assert answer.status_code == 200, answer.text
    assert "mig" in answer.json()["values"] and run.system.reads == "images"
