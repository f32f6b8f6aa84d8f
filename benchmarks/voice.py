"""Voice conversion of spoken digits, judged by classifiers of digits and of speakers that learned from other clips.

    python -m benchmarks.voice --steps 1200

Held-out clips of free-spoken-digits are converted to other speakers, written as samples by Griffin-Lim and read again.
The judges are support vector machines (RBF) on log-mel spectrograms of 32 frames, fitted on the training clips alone;
their accuracy on the held-out clips as recorded, and as Griffin-Lim gives them back unconverted, stands beside.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import fourfold
from benchmarks.side_by_side import keep
from fourfold.core.run import Run
from fourfold.data.sound import Clip, SoundData

FRAMES = 32


def seen(data: SoundData, samples: Tensor) -> np.ndarray:
    """A clip as the judges see it: its log-mel spectrogram stretched to 32 frames, without its mean level."""
    mel = data.normalized(samples)
    return F.interpolate(mel[None], FRAMES, mode="linear")[0].sub(mel.mean()).flatten().numpy()


def judges(data: SoundData, most: int) -> dict[str, Any]:
    """Classifiers of the digit and of the speaker."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    clips = data.clips("train")
    clips = clips[:: max(1, len(clips) // most)]
    features = np.stack([seen(data, clip.samples) for clip in clips])
    made = {}
    for what in ("label", "speaker"):
        judge = make_pipeline(StandardScaler(), SVC(C=10.0))
        made[what] = judge.fit(features, [getattr(clip, what) for clip in clips])
    return made


def accuracy(judge: Any, features: np.ndarray, wanted: list[Any]) -> float:
    return round(100 * float(np.mean(judge.predict(features) == np.array(wanted))), 1)


def converted(run: Run, data: SoundData, clip: Clip, speaker: str) -> Tensor:
    """Samples of a clip in another voice, as `convert` makes them."""
    from fourfold.systems.voice import in_voice

    mel = in_voice(run, data.normalized(clip.samples), data.speakers.index(speaker))
    return data.spectra.waveform(data.log_mel(mel))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--levels", type=int, default=1)
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--judges", type=int, default=2400, help="clips that the judges learn from")
    parser.add_argument("--run", help="a run that is there already, instead of fitting one")
    parser.add_argument("--out", default="runs/voice-bench")
    arguments = parser.parse_args()
    began = time.process_time()
    if arguments.run:
        run = fourfold.open(arguments.run)
    else:
        run = fourfold.fit(
            "voice",
            "free-spoken-digits",
            out=arguments.out,
            steps=arguments.steps,
            levels=arguments.levels,
        )
    seconds = time.process_time() - began
    data: Any = run.examples()
    found = judges(data, arguments.judges)
    clips = data.clips("test")
    clips = clips[:: max(1, len(clips) // arguments.clips)][: arguments.clips]
    random = np.random.default_rng(0)
    others = [str(random.choice([s for s in data.speakers if s != clip.speaker])) for clip in clips]
    real = np.stack([seen(data, clip.samples) for clip in clips])
    again = np.stack(
        [seen(data, data.spectra.waveform(data.spectra.log_mel(c.samples))) for c in clips]
    )
    with torch.no_grad():
        made = np.stack(
            [seen(data, converted(run, data, c, s)) for c, s in zip(clips, others, strict=True)]
        )
    digits, speakers = [c.label for c in clips], [c.speaker for c in clips]
    result = {
        "clips": len(clips),
        "clips that the judges learned from": min(arguments.judges, data.size("train")),
        "steps": arguments.steps,
        "seconds of processor time of the fit": round(seconds),
        "real clips, digit heard %": accuracy(found["label"], real, digits),
        "real clips, speaker heard %": accuracy(found["speaker"], real, speakers),
        "through Griffin-Lim alone, digit heard %": accuracy(found["label"], again, digits),
        "through Griffin-Lim alone, speaker heard %": accuracy(found["speaker"], again, speakers),
        "converted, content kept %": accuracy(found["label"], made, digits),
        "converted, wanted speaker heard %": accuracy(found["speaker"], made, others),
        "converted, old speaker still heard %": accuracy(found["speaker"], made, speakers),
        "goal, content kept %": 90,
        "goal, wanted speaker heard %": 80,
    }
    print(result, flush=True)
    more = f", {arguments.levels} levels" if arguments.levels > 1 else ""
    keep("voice", {f"free-spoken-digits{more}": result})


if __name__ == "__main__":
    main()
