"""A run: a system, what it was given, what it learned, and the folder that holds it all.

    runs/gpt-7/
      system.toml            the whole configuration, versions, threads; an absent key is None
      data/                  what prepares new input: schema, vocabulary, statistics, fingerprint
      weights.safetensors    the best so far
      checkpoints/<step>/    everything needed to go on
      metrics.jsonl          one line per logged step
      report.html

A run may also live in memory only: `folder` is None and nothing is written.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from fourfold.core.errors import UserError, nearest
from fourfold.core.folders import FORMAT, find_run, migrated, read_notes, read_toml, without_none
from fourfold.core.metrics import Metrics
from fourfold.core.parts import Data, Objective
from fourfold.core.ranks import ALONE, Parallel, Ranks
from fourfold.core.sources import changed_files, describe, stored
from fourfold.core.system import System, verbs

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fourfold.core.console import Console
    from fourfold.core.types import Picture


Model = TypeVar("Model", bound="nn.Module")


class Run:
    """A system with what it learned; its verbs are its methods: `run.generate("To be")`."""

    def __init__(
        self,
        system: System,
        *,
        folder: Path | None = None,
        sources: Any = None,
        valid: Any = None,
        seed: int = 0,
        device: str = "auto",
        about: dict[str, Any] | None = None,
    ) -> None:
        self.system, self.folder = system, folder
        self.sources, self.valid, self.seed = sources, valid, seed
        self.device_name = device
        self.ranks: Ranks = ALONE
        """The processes that fit this run together."""
        self._common: Path | None = None
        self.parallel = Parallel()
        """How it is spread over them."""
        self.about: dict[str, Any] = about or {}
        self.notes: list[str] = []
        """Sentences said to the user and kept for the report."""
        self.metrics = Metrics(folder / "metrics.jsonl" if folder else None)
        self.best: dict[str, Any] | None = None
        """Weights of the best checkpoint while nothing is written to disk."""
        self.interrupt: Any = None
        self._console: Console | None = None
        self._data: Data | None = None
        self._model: nn.Module | None = None
        self._objective: Objective | None = None
        self._examples: Data | None = None

    @property
    def common(self) -> Path | None:
        """The folder, also for one of several processes that writes nothing to it."""
        return self.folder or self._common

    @property
    def place(self) -> str:
        """Where it is, for messages: its folder, the address of a model of somebody else's, or in memory."""
        return str(self.folder or self.about.get("address") or "a run in memory")

    # --- making and opening -------------------------------------------------------------------

    def save_configuration(self) -> None:
        """Write `system.toml`; a run in memory writes nothing."""
        if self.folder is None:
            return
        import tomli_w
        import torch

        from fourfold.core.state import write_text
        from fourfold.core.version import __version__

        self.about = {
            "format": FORMAT,
            "system": self.system.name,
            "fourfold": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
            "processor": platform.machine(),
            **{k: v for k, v in self.about.items() if k not in ("format", "system")},
        }
        sources, valid = stored(self.sources), stored(self.valid)
        tree = {
            **self.about,
            "fit": {
                "sources": sources,
                "valid": valid,
                "seed": self.seed,
                "device": self.device_name,
            },
            "options": self.system.model_dump(mode="json"),
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.folder}: cannot make this folder ({error.strerror})") from error
        self._keep_notes()
        write_text(self.folder / "system.toml", tomli_w.dumps(without_none(tree)))

    @classmethod
    def open(cls, name: str | Path, *, device: str | None = None) -> Self:
        """Open a run folder; executes nothing from it.

        Raises:
            UserError: no such run, damaged, of an unknown system, or written by a newer version.
        """
        from fourfold.core.addresses import address
        from fourfold.core.options import complete, construct
        from fourfold.core.registry import load_system

        if address(str(name)) is not None:
            raise UserError(
                f"{name}: a model of somebody else's, and here a run's own weights and data are needed; a GGUF file becomes a "
                "run by `fourfold import`"
            )
        folder = find_run(name)
        path = folder / "system.toml"
        about = migrated(read_toml(path), path)
        options, fit = about.pop("options", None), about.pop("fit", {})
        if not isinstance(options, dict) or not isinstance(about.get("system"), str):
            raise UserError(f"{path}: damaged: it names no system or no options")
        system = load_system(about["system"])
        run = cls(
            construct(system, complete(system, options), where=str(path)),
            folder=folder,
            sources=fit.get("sources"),
            valid=fit.get("valid"),
            seed=fit.get("seed", 0),
            device=device
            or "auto",  # a run moves between machines: where it was made does not bind
            about=about,
        )
        run.notes = read_notes(folder / "notes.json")
        return run

    def shared_by(self, ranks: Ranks, parallel: Parallel) -> None:
        """Let several processes fit this run together: rank 0 alone writes and speaks."""
        self.ranks, self.parallel = ranks, parallel
        if not ranks.main:
            self._common = self.folder
            from fourfold.core.console import Silent

            self.folder, self.metrics.path = None, None
            self.console = Silent()

    # --- the four parts, opened -----------------------------------------------------------------

    @functools.cached_property
    def device(self) -> torch.device:
        """Where the model lives."""
        from fourfold.core.device import choose_device

        return choose_device(self.device_name, self.ranks.local if self.ranks.several else None)

    @property
    def console(self) -> Console:
        """Where progress is said; silent unless a face of the library sets another."""
        if self._console is None:
            from fourfold.core.console import Silent

            self._console = Silent()
        return self._console

    @console.setter
    def console(self, console: Console) -> None:
        self._console = console

    @property
    def data(self) -> Data:
        """The data: with examples while fitting, otherwise the preparation only (see `examples`)."""
        if self._data is None:
            if self.folder is None:
                raise ValueError("this run has no data yet: fit it first")
            folder = self.folder / "data"
            if not folder.is_dir():
                raise UserError(
                    f"{folder}: missing; the fit was stopped before it had read its data"
                )
            try:
                self._data = self.system.data.restore(folder)
            except (OSError, KeyError, ValueError) as error:
                raise UserError(f"{folder}: damaged ({error})") from error
        return self._data

    @data.setter
    def data(self, data: Data) -> None:
        self._data = self._examples = data

    def release(self, prepared: Data) -> None:
        """Let go of the examples: from here on the data is its preparation only."""
        self._data, self._examples = prepared, None

    def examples(self) -> Data:
        """The data with the examples of this run's own source, opened again and checked.

        Raises:
            UserError: the source is gone or has changed since, or was in memory only.
        """
        if self._examples is None:
            if self.about.get("imported"):
                raise UserError(
                    f"{self.folder}: was imported from {self.about['imported']} and has no examples of its own; give it data"
                )
            if self.about.get("in_memory") and self.sources is None:
                raise UserError(
                    f"{self.folder}: was fitted on data in memory; give the data to use again"
                )
            prepared = self.data
            from fourfold.core.console import heard

            with heard(self.console):
                data = prepared.reopen(self.sources, seed=self.seed, valid=self.valid)
            if prepared.fingerprint and data.fingerprint != prepared.fingerprint:
                raise UserError(
                    f"{self.folder}: its source {describe(self.sources)} has changed since the fit"
                    f"{changed_files(prepared.digests, data.digests)}; "
                    "give the data explicitly, or fit anew"
                )
            self._examples = data
        return self._examples

    @property
    def model(self) -> nn.Module:
        """The model with its best weights, in evaluation mode, on the run's device."""
        if self._model is None:
            from fourfold.core.state import load_weights

            model = self.system.build(self.data)
            if self.folder is not None:
                load_weights(self.folder / "weights.safetensors", model)
            elif self.best is not None:
                model.load_state_dict(self.best)
            self._model = model.to(self.device).eval()
        return self._model

    @model.setter
    def model(self, model: nn.Module) -> None:
        self._model = model

    @property
    def objective(self) -> Objective:
        """The objective, prepared for this run."""
        if self._objective is None:
            self._objective = self.system.objective.prepare(self)
        return self._objective

    @objective.setter
    def objective(self, objective: Objective) -> None:
        self._objective = objective

    # --- what the search and the systems use ------------------------------------------------------

    def generator(
        self, purpose: str, number: int = 0, device: str | torch.device = "cpu"
    ) -> torch.Generator:
        """A random generator fixed by the run's seed, a purpose and a number; never the training's."""
        import torch

        digest = hashlib.sha256(f"{self.seed} {purpose} {number}".encode()).digest()
        generator = torch.Generator(device=device)
        generator.manual_seed(int.from_bytes(digest[:7], "big"))
        return generator

    def note(self, sentence: str) -> None:
        """Say something once, and keep it for the report."""
        if sentence in self.notes:
            return
        self.notes.append(sentence)
        self.console.say(sentence)
        self._keep_notes()

    def _keep_notes(self) -> None:
        if self.notes and self.folder is not None and self.folder.is_dir():
            from fourfold.core.state import write_text

            write_text(self.folder / "notes.json", json.dumps(self.notes, ensure_ascii=False))

    def keep_weights(self, replacing: dict[str, torch.Tensor] | None = None) -> None:
        """Keep the model's present weights as the best so far."""
        if not self.ranks.main:
            return
        if self.folder is not None:
            from fourfold.core.state import save_weights

            save_weights(self.folder / "weights.safetensors", self.model, replacing)
        else:
            state = self.model.state_dict()
            self.best = {
                name: (replacing or {}).get(name, value).detach().clone()
                for name, value in state.items()
            }

    def preview(self) -> str | Picture | None:
        """The system's preview, drawn in evaluation mode without touching the training's generators."""
        if type(self.system).preview is System.preview:
            return None  # going over to evaluation and back costs a small network as much as a step
        return self._apart(lambda: self.system.preview(self))

    def _apart(self, call: Any) -> Any:
        import torch

        from fourfold.core.device import seeded

        training = self.model.training
        self.model.eval()
        try:
            with seeded(self.seed, self.device), torch.no_grad():
                return call()
        finally:
            self.model.train(training)

    # --- verbs ------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        system = self.__dict__.get("system")
        known = verbs(system) if system is not None else {}
        if name not in known:
            raise AttributeError(
                f"{getattr(system, 'name', 'this run')} has no verb {name!r}{nearest(name, known)}"
            )
        method = functools.partial(known[name], system, self)

        @functools.wraps(known[name])
        def verb(*args: Any, **kwargs: Any) -> Any:
            import torch

            with torch.no_grad():
                result = method(*args, **kwargs)
            return _without_gradient(result) if inspect.isgenerator(result) else result

        return verb

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *verbs(self.system)]

    def __repr__(self) -> str:
        return f"<run of {self.system.name}: {self.place}; verbs: {', '.join(verbs(self.system))}>"

    def _repr_html_(self) -> str:
        report = self.folder / "report.html" if self.folder else None
        if report and report.exists():
            import html

            content = html.escape(report.read_text(encoding="utf-8"))
            return (
                f'<iframe srcdoc="{content}" width="100%" height="600" style="border:0"></iframe>'
            )
        import html

        return f"<pre>{html.escape(repr(self))}</pre>"


def model_of(run: Run, kind: type[Model]) -> Model:
    """A run's model, known to be of its system's class."""
    if not isinstance(run.model, kind):
        raise TypeError(
            f"{run.system.name} expects {kind.__name__}, got {type(run.model).__name__}"
        )
    return run.model


def _without_gradient(iterator: Iterator[Any]) -> Iterator[Any]:
    """Draw from a verb's generator with gradients off only while it works, not while its caller does."""
    import torch

    while True:
        with torch.no_grad():
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item
