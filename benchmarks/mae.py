"""What a masked autoencoder learns without labels: patches restored, and neighbours of one class.

    python -m benchmarks.mae
    python -m benchmarks.mae --encoder resnet
    python -m benchmarks.mae --run runs/mae-1      # a run that is fitted on the embedded digits already

Beside it: neighbours by the pixels themselves, and by an encoder whose weights were only drawn.
"""

from __future__ import annotations

import argparse

import torch

import fourfold
from benchmarks.side_by_side import keep
from fourfold.core.run import Run
from fourfold.tasks.image_features import image_data, neighbours


def by_pixels(run: Run) -> float:
    """Share of held-out images whose nearest training image is of their class."""
    data = image_data(run.examples())
    parts = []
    for split in ("train", "test"):
        batches = list(data.batches(split))  # type: ignore[arg-type]
        images = torch.cat([b["image"] for b in batches]).flatten(1)
        parts.append((images, torch.cat([b["label"] for b in batches])))
    nearest = torch.cdist(parts[1][0], parts[0][0]).argmin(1)
    return float((parts[0][1][nearest] == parts[1][1]).double().mean())


def drawn(run: Run) -> float:
    """The same by features of weights that are drawn anew."""
    torch.manual_seed(0)
    fresh = run.system.build(run.data).to(run.device).eval()
    learned, run.model = run.model, fresh
    found = neighbours(run, image_data(run.examples()), "test")
    run.model = learned
    return float(found or 0)


def main() -> None:
    """Fit, or take a run that is fitted, and keep the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="")
    parser.add_argument("--encoder", default="vit", choices=["vit", "cnn", "resnet"])
    arguments = parser.parse_args()
    if arguments.run:
        run = fourfold.open(arguments.run)
    else:
        run = fourfold.fit("mae", None, out=False, encoder=arguments.encoder)
    encoder = getattr(run.system, "encoder", "vit")
    found = {name: round(value, 4) for name, value in run.evaluate().values.items()}
    beside = {"by pixels": round(by_pixels(run), 4), "drawn weights": round(drawn(run), 4)}
    steps = [line["step"] for line in run.metrics.lines if "step" in line][-1]
    title = "embedded digits" if encoder == "vit" else f"embedded digits, {encoder}"
    keep("mae", {title: {**found, **beside, "steps": steps}})


if __name__ == "__main__":
    main()
