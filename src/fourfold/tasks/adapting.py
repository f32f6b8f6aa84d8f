"""Adapters as options: a large model's weights stay, a few beside them are learned; the weights that stay may take 4 bits.

LoRA: Hu et al. 2021; 4-bit weights below adapters, QLoRA: Dettmers et al. 2023 (`models/adapters.py`, `models/nf4.py`).
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import torch
from annotated_types import Ge, Lt
from pydantic import PositiveFloat, PositiveInt, model_validator
from torch import nn

from fourfold.core.errors import UserError
from fourfold.core.evaluation import to_device
from fourfold.core.run import Run
from fourfold.core.system import System
from fourfold.data.experience import ExperienceData
from fourfold.models.adapter_folder import Settings, compact
from fourfold.models.adapters import adapt, adapters, give, merged
from fourfold.models.nf4 import nf4_bytes, with_nf4

M = TypeVar("M", bound=nn.Module)
LOOKED_AT = 8
"""Batches on which the cost of rounding to 4 bits is measured."""


class Adaptable(System):
    """A system that can learn adapters on the weights of the run that it begins from."""

    adapter: Literal["none", "lora", "rslora"] = "none"
    """What learns: all weights (none), or low-rank changes beside weights that stay (lora; rslora scales them by
    alpha / sqrt(rank) instead of alpha / rank)."""
    rank: PositiveInt = 16
    """Rank of the adapters' changes."""
    alpha: PositiveFloat | None = None
    """The changes are scaled by alpha / rank; None takes twice the rank."""
    adapt: tuple[str, ...] = ()
    """Layers that get an adapter, by name or its end, as "query" "value" or "attention"; none named takes every linear
    layer of attention and feed-forward."""
    adapter_dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the adapters' inputs left out while training."""
    quantize: Literal["none", "nf4", "nf4-double"] = "none"
    """How the weights that stay are stored: as they are, in 4.5 bits (nf4) or in 4.13 (nf4-double, whose scales are
    rounded too)."""

    @model_validator(mode="after")
    def _something_learns(self) -> Self:
        if self.quantize != "none" and self.adapter == "none":
            raise ValueError(
                f"quantize {self.quantize}: weights of 4 bits cannot be learned; --adapter lora learns beside them, "
                "--quantize none learns them all"
            )
        return self

    def adapted(self, model: M) -> M:
        """A fresh model with the layers that the options ask for.

        Raises:
            UserError: `adapt` names no layer, or the rank is above every layer's.
        """
        if self.quantize != "none":
            with_nf4(model, double=self.quantize == "nf4-double")
        if self.adapter != "none":
            adapt(
                model,
                self.adapt,
                rank=self.rank,
                alpha=self.adapter_settings().alpha,
                dropout=self.adapter_dropout,
                rslora=self.adapter == "rslora",
            )
        return model

    def adapter_settings(self, base: str = "") -> Settings:
        """The options as an adapter's folder has them."""
        alpha = self.alpha or 2.0 * self.rank
        return Settings(self.rank, alpha, self.adapter_dropout, self.adapter == "rslora", base)

    def suited(self, run: Run) -> Self:
        """See `System.suited`: adapters need weights to stand beside, and their options need adapters.

        Raises:
            UserError: there is no run to begin from, or an option would be without effect.
        """
        if self.adapter == "none":
            # what the run before was tuned with comes along: nobody asked for it here
            other = Run.open(run.about["from"]).system if "from" in run.about else None
            for name in ("rank", "alpha", "adapt", "adapter_dropout"):
                usual = Adaptable.model_fields[name].default, getattr(other, name, None)
                if (given := getattr(self, name)) not in usual:
                    raise UserError(
                        f"--{name.replace('_', '-')} {given}: without adapters it is without effect, all weights learn; "
                        "--adapter lora learns adapters"
                    )
        elif "from" not in run.about:
            raise UserError(
                f"--adapter {self.adapter}: adapters learn beside weights that are there; --from names the run that has them"
            )
        return super().suited(run)

    def take_over(self, model: nn.Module, other: Run) -> None:
        """See `System.take_over`: like adapters go on; others are merged into the weights that they stand beside."""
        if not isinstance(other.system, Adaptable) or _layout(self) == _layout(other.system):
            super().take_over(model, other)
        else:
            give(model, merged(other.model).state_dict())

    def begin(self, run: Run) -> None:
        """See `System.begin`: how much learns, and what rounding to 4 bits cost."""
        super().begin(run)
        other = Run.open(run.about["from"]) if "from" in run.about else None
        if other is not None and isinstance(other.system, Adaptable):
            if other.system.adapter != "none" and _layout(self) != _layout(other.system):
                run.note(f"The adapters of {other.folder} are merged into the weights.")
        if self.adapter == "none":
            return
        learns = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
        every = sum(p.numel() for p in merged(run.model).parameters())
        run.note(
            f"Adapters of rank {self.rank} on {len(adapters(run.model))} layers: {learns:,} weights learn beside {every:,}."
        )
        if self.quantize != "none" and other is not None:
            run.note(_cost(run, merged(other.model)))


ADAPTING = tuple(name for name in Adaptable.model_fields if name not in System.model_fields)
"""The options of adapters: how a run learns, which a run of another system that begins from it does not inherit."""


def _layout(system: Adaptable) -> tuple[Any, ...]:
    """What two systems have in common whose weights have the same names, shapes and meaning."""
    if system.adapter == "none":
        return ()
    settings = system.adapter_settings()
    return system.quantize, system.adapt, settings.rank, settings.alpha, settings.rslora


def _cost(run: Run, before: nn.Module) -> str:
    """What rounding to 4 bits saved and cost, on held-out batches, before anything is learned."""
    here, there = nf4_bytes(run.model)
    said = (
        f"4 bits: the weights that stay take {here / 2**20:.1f} MiB instead of {there / 2**20:.1f}"
    )
    if isinstance(run.data, ExperienceData):  # its batches are what the model itself answers
        return f"{said}."
    split: Literal["valid", "train"] = "valid" if run.data.size("valid") else "train"
    batches = list(itertools.islice(run.data.batches(split), LOOKED_AT))
    if not batches:
        return f"{said}."
    losses = [_loss(run, model, batches) for model in (before.to(run.device).eval(), run.model)]
    unit = run.objective.units().get("loss", "")
    return f"{said}; rounding takes the loss from {losses[0]:.4f} to {losses[1]:.4f} {unit}, measured on {split}.".replace(
        "  ", " "
    )


def _loss(run: Run, model: nn.Module, batches: list[Any]) -> float:
    """Mean of the first measure."""
    training = model.training
    model.eval()
    found, count = 0.0, 0.0
    with torch.no_grad():
        for batch in batches:
            total, weight = next(
                iter(run.objective.measure(model, to_device(batch, run.device)).values())
            )
            found += float(total)
            count += float(weight if weight is not None else 1)
    model.train(training)
    return found / max(count, 1e-30)


def adapter_fields(settings: Settings, model: nn.Module, names: list[str]) -> dict[str, Any]:
    """The options of a system whose model has these adapters.

    Args:
        settings: of the adapters' folder.
        model: with the adapters.
        names: the layers that have one.
    """
    return {
        "adapter": "rslora" if settings.rslora else "lora",
        "rank": settings.rank,
        "alpha": settings.alpha,
        "adapt": compact(model, names),
        "adapter_dropout": settings.dropout,
        "quantize": "none",
    }


def base_of(run: Run) -> str:
    """Where another library finds the model that a run's adapters stand beside; empty if nowhere.

    That is the folder from which the run that was begun from was imported, where it is still there; whether its
    weights are as they were is for the caller to see.
    """
    system = run.system
    if not isinstance(system, Adaptable) or system.quantize != "none" or "from" not in run.about:
        return ""
    try:
        other = Run.open(run.about["from"])
    except UserError:
        return ""
    origin = other.about.get("imported", "")
    plain = not isinstance(other.system, Adaptable) or other.system.adapter == "none"
    return str(origin) if plain and origin and Path(origin).is_dir() else ""
