"""The exponential moving average of weights, and that it is what a run keeps."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

import fourfold
from faulty import FaultySystem
from fourfold.optimizers.average import Average


def test_equals_the_formula() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    average = Average(model, 0.95)
    expected = {n: p.detach().clone() for n, p in model.named_parameters()}
    for n in range(1, 300):  # from n = 171 on it is the configured decay that counts
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update()
        decay = min(0.95, (1 + n) / (10 + n))
        for name, parameter in model.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * parameter.detach()
    assert average.weights().keys() == expected.keys()
    for name, value in average.weights().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-12)


def test_applied_for_a_while_only() -> None:
    model = nn.Linear(2, 1)
    average = Average(model, 0.5)
    with torch.no_grad():
        model.weight.fill_(4.0)
    before = model.weight.detach().clone()
    try:
        with average.applied():
            assert torch.equal(model.weight, average.weights()["weight"])
            assert not torch.equal(model.weight, before)
            raise KeyError
    except KeyError:
        assert torch.equal(model.weight, before)


def test_a_parameter_that_begins_anew() -> None:
    model = nn.Linear(2, 1)
    average = Average(model, 0.5)
    bias = average.weights()["bias"].clone()
    with torch.no_grad():
        model.weight.fill_(4.0)
        model.bias.fill_(9.0)
    average.restart(model.weight)
    assert average.weights()["weight"].tolist() == [[4.0, 4.0]]
    assert torch.equal(average.weights()["bias"], bias)


def test_goes_on_from_its_state() -> None:
    model = nn.Linear(2, 1)
    average, again = Average(model, 0.9), Average(model, 0.9)
    average.update()
    again.load_state_dict(average.state_dict())
    with torch.no_grad():
        model.weight.mul_(2)
    average.update()
    again.update()
    assert again.updates == 2
    for a, b in zip(average.weights().values(), again.weights().values(), strict=True):
        assert torch.equal(a, b)


def test_what_a_run_keeps_are_the_averages(tmp_path: Path) -> None:
    """Weights after each step are recorded by hand; the kept ones are their average at the best step."""
    trail: list[dict[str, torch.Tensor]] = []

    class Trailed(FaultySystem):
        def build(self, data: object) -> nn.Module:
            model = super().build(data)  # type: ignore[arg-type]
            model.register_forward_pre_hook(
                lambda m, _: (
                    trail.append({n: p.detach().clone() for n, p in m.named_parameters()})
                    if m.training
                    else None
                )
            )
            return model

    run = fourfold.fit(Trailed(), out=tmp_path / "run", steps=8, accumulate=1, dropout=0.0)
    steps, values = run.metrics.series("valid.loss")
    best = int(steps[values.index(min(values))])
    assert len(trail) == 8 and best == 8
    # the forward pass of step k sees the weights after k - 1 steps; those after the last are in the checkpoint
    from fourfold.core.state import load_state

    last = load_state(tmp_path / "run" / "checkpoints" / "000000008" / "state.safetensors")["model"]
    average = trail[0]
    for n, weights in enumerate([*trail[1:], last], start=1):
        decay = min(0.9, (1 + n) / (10 + n))
        average = {k: decay * v + (1 - decay) * weights[k] for k, v in average.items()}
    kept = load_file(tmp_path / "run" / "weights.safetensors")
    for name, value in kept.items():
        torch.testing.assert_close(value, average[name], rtol=1e-5, atol=1e-6)
        assert not torch.equal(value, last[name])
