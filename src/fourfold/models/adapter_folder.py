"""Adapters in PEFT's layout, both ways: adapter_config.json beside adapter_model.safetensors.

Format: huggingface/peft, LoraConfig; a layer `x` of the base has `base_model.model.x.lora_A.weight`, (R, I), and
`lora_B.weight`, (O, R). Nothing is executed and nothing fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fourfold.core.errors import UserError, nearest
from fourfold.models.adapters import adapt, adaptable, adapters
from fourfold.models.hf_folder import StoredTensors, read_json, write_folder

CONFIG, STEM = "adapter_config.json", "adapter_model"
BEFORE = "base_model.model."
CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Beginnings of adapters that take something out of the base's weights, which the adapters' folder does not say."""
Rename = Callable[[str], str]
"""From a parameter's name here, as "blocks.0.attention.query.weight", to its name in the base's own layout."""


@dataclass(frozen=True)
class Settings:
    """What is the same for all layers of an adapter."""

    rank: int
    alpha: float
    dropout: float = 0.0
    rslora: bool = False
    base: str = ""
    """Where the model is that it adapts, or its name; empty where the folder does not say."""


def is_adapter(folder: Path) -> bool:
    """Whether a folder looks like PEFT's."""
    return (folder / CONFIG).is_file()


def save_adapter(model: nn.Module, folder: Path, settings: Settings, rename: Rename) -> None:
    """Write the adapters of a model.

    Args:
        model: with adapters.
        folder: made if it is not there.
        settings: those that the adapters were made with.
        rename: see `Rename`.

    Raises:
        UserError: the model has no adapters, or the folder cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    layers = []
    for name, lora in adapters(model).items():
        stem = rename(f"{name}.weight").removesuffix(".weight")
        layers.append(stem)
        tensors[f"{BEFORE}{stem}.lora_A.weight"] = lora.a
        tensors[f"{BEFORE}{stem}.lora_B.weight"] = lora.b
    if not tensors:
        raise UserError("the model has no adapters to write")
    alpha = settings.alpha
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": settings.base or None,
        "r": settings.rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": settings.dropout,
        "use_rslora": settings.rslora,
        "use_dora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "target_modules": _targets(layers, model, rename),
        "modules_to_save": None,
    }
    write_folder(folder, config, tensors.items(), stem=STEM, settings=CONFIG)


def _targets(layers: list[str], model: nn.Module, rename: Rename) -> list[str]:
    """The layers as PEFT names them: by their last word where every layer of that word is adapted, else whole."""
    every = [
        rename(f"{n}.weight").removesuffix(".weight")
        for n, m in model.named_modules()
        if hasattr(m, "in_features") and hasattr(m, "out_features")
    ]
    ends = {name.rpartition(".")[2] for name in layers}
    whole = {
        e
        for e in ends
        if sum(n.endswith(f".{e}") for n in every) == sum(n.endswith(f".{e}") for n in layers)
    }
    return sorted(whole) + [name for name in layers if name.rpartition(".")[2] not in whole]


class StoredAdapter:
    """An adapter's folder, checked, with its tensors unread.

    Raises:
        UserError: it is damaged, or of a kind that adds more than low-rank changes of linear layers.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, path = folder, folder / CONFIG
        config = read_json(path)
        _check(config, path)
        rank, alpha = config.get("r"), config.get("lora_alpha")
        if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, (int, float)):
            raise UserError(
                f"{path}: expected r >= 1 and a number lora_alpha, got {rank!r} and {alpha!r}"
            )
        self.settings = Settings(
            rank, float(alpha), float(config.get("lora_dropout") or 0.0),
            bool(config.get("use_rslora")), str(config.get("base_model_name_or_path") or ""),
        )  # fmt: skip
        self.stored = StoredTensors(folder, STEM)
        self.layers: list[str] = []
        for name in self.stored:
            stem = name.removeprefix(BEFORE)
            known = stem.endswith((".lora_A.weight", ".lora_B.weight"))
            if not known or not name.startswith(BEFORE):
                raise UserError(
                    f"{folder}: holds {name}; only low-rank changes of linear layers (lora_A, lora_B) are read"
                )
            if stem.endswith(".lora_A.weight"):
                self.layers.append(stem.removesuffix(".lora_A.weight"))
        if not self.layers:
            raise UserError(f"{folder}: holds no adapter")

    def base(self, given: Path | None = None) -> Path:
        """Where the model is that it adapts.

        Args:
            given: what the user says; None takes what the folder says, if that is here, or base/ inside it.

        Raises:
            UserError: there is no such folder.
        """
        named = self.settings.base
        tried = [given] if given else [Path(named), self.folder / named, self.folder / "base"]
        for place in tried:
            if place.is_dir() and (given or place.resolve() != self.folder.resolve()):
                if any((place / name).is_file() for name in ("config.json", "system.toml")):
                    return place
        if given:
            raise UserError(f"--base {given}: neither a run nor a Hugging Face model folder")
        raise UserError(
            f"{self.folder}: adapts {named or 'a model that it does not name'}, which is no folder here; "
            "--base names the folder or the run of that model"
        )

    def put_on(self, model: nn.Module, rename: Rename) -> list[str]:
        """Put the adapters on the plain model that they were made for.

        Args:
            model: changed in place.
            rename: see `Rename`.

        Returns:
            Names of the adapted layers.

        Raises:
            UserError: the adapter is for another base: a layer is not there, or of another shape.
        """
        linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
        own = {rename(f"{n}.weight").removesuffix(".weight"): n for n in linears}
        for stem in self.layers:
            if stem not in own:
                raise UserError(
                    f"{self.folder}: adapts {stem}, which this base does not have{nearest(stem, own)}; "
                    f"it was made for {self.settings.base or 'another base'}"
                )
            layer = linears[own[stem]]
            for half, side in (("A", layer.in_features), ("B", layer.out_features)):
                shape = (self.settings.rank, side) if half == "A" else (side, self.settings.rank)
                found = self.stored.shape(self._name(stem, half))
                if found != shape:
                    raise UserError(
                        f"{self.folder}: an adapter for another base: {stem}, lora_{half} is {found}, "
                        f"this base and rank {self.settings.rank} need {shape}"
                    )
        names = [own[stem] for stem in self.layers]
        s = self.settings
        adapted = adapt(
            model, names, rank=s.rank, alpha=s.alpha, dropout=s.dropout, rslora=s.rslora
        )
        stems = {name: stem for stem, name in own.items()}
        for name, lora in adapters(model).items():
            lora.a.data.copy_(self.stored.read(self._name(stems[name], "A")))
            lora.b.data.copy_(self.stored.read(self._name(stems[name], "B")))
        return adapted

    def _name(self, stem: str, half: str) -> str:
        return f"{BEFORE}{stem}.lora_{half}.weight"


def _check(config: Mapping[str, Any], path: Path) -> None:
    """Refuse what would be ignored in silence."""
    plain: dict[str, tuple[Any, ...]] = {
        "peft_type": ("LORA",),
        "bias": ("none", None),
        "use_dora": (False, None),
        "modules_to_save": (None, []),
        "rank_pattern": ({}, None),
        "alpha_pattern": ({}, None),
        "target_parameters": (None, []),
        "trainable_token_indices": (None, []),
        "use_qalora": (False, None),
        "alora_invocation_tokens": (None, []),
        "lora_bias": (False, None),
    }
    for name, allowed in plain.items():
        found = config.get(name)
        if found not in allowed:
            raise UserError(
                f"{path}, {name}: expected {allowed[0]!r}, got {found!r}; plain LoRA is read"
            )
    begun = str(config.get("init_lora_weights")).lower()
    if begun.startswith(CHANGING):
        raise UserError(
            f"{path}, init_lora_weights: expected True, got {config['init_lora_weights']!r}, which changes the base's own "
            "weights too; PEFT's save_pretrained(path_initial_model_for_weight_conversion=...) makes plain LoRA of it"
        )


def compact(model: nn.Module, names: list[str]) -> tuple[str, ...]:
    """Patterns as `models.adapters.adaptable` takes them, by the ends of names where every block's is adapted."""
    if set(names) == set(adaptable(model)):
        return ()
    found: dict[str, None] = {}
    for name in names:
        end = ".".join(name.split(".")[-2:])
        found[end if set(adaptable(model, [end])) <= set(names) else name] = None
    return tuple(found)
