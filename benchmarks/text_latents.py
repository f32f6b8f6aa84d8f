"""Sentences through a latent: bounds, active units and diversity of text-vae and text-vq.

    python -m benchmarks.text_latents --data made --steps 300
    python -m benchmarks.text_latents --steps 1500

The sentences that the project makes, or the English side of Multi30k's training pairs, 29,000 descriptions of photographs
(from FOURFOLD_DATA). Without free bits the latent shows whether it would collapse; the last row of text-vae is ControlVAE's
way (Shao et al. 2020): a controller moves the KL's weight to hold a KL.
"""

from __future__ import annotations

import argparse
import time

import fourfold
from benchmarks.side_by_side import data_file, keep

FILES = {"multi30k English": ["multi30k-en-de/train.en.gz"], "made": []}
CONFIGURATIONS = {
    "text-vae, free bits 0.25": ("text-vae", {}),
    "text-vae, free bits 0": ("text-vae", {"objective.free_bits": 0.0}),
    "text-vae, KL held at 8 nats": (
        "text-vae",
        {
            "objective.free_bits": 0.0,
            "optimizer.control.moves": "objective.beta",
            "optimizer.control.measure": "kl",
            "optimizer.control.setpoint": 8.0,
            "optimizer.control.integral": 1e-3,
        },
    ),
    "text-vq": ("text-vq", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--data", default="multi30k English", choices=FILES)
    parser.add_argument("--only", choices=CONFIGURATIONS)
    arguments = parser.parse_args()
    sources = [str(data_file(name)) for name in FILES[arguments.data]] or None
    for title, (system, options) in CONFIGURATIONS.items():
        if arguments.only not in (None, title):
            continue
        began = time.process_time()
        run = fourfold.fit(
            system, sources, out=False, steps=arguments.steps, **{"data.longest": 24, **options}
        )
        score = run.evaluate()
        result = {
            **{name: round(value, 4) for name, value in score.values.items()},
            "steps": arguments.steps,
            "seconds of processor time": round(time.process_time() - began),
            "samples": run.sample(count=5, seed=0).splitlines(),
        }
        print(title, result, flush=True)
        keep("text_latents", {f"{arguments.data}: {title}": result})


if __name__ == "__main__":
    main()
