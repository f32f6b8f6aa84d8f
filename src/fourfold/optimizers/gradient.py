"""Gradient search: the one training loop of the project.

The step is `Search.step`; every other concern (budget, schedule, precision, averaging, stopping,
checkpoints, diagnosis) is a small object in a file of its own.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from annotated_types import Ge, Gt, Le, Lt
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import nn

from fourfold.core.parts import Data, Objective, Optimizer
from fourfold.core.run import Run
from fourfold.optimizers import schedule as schedules
from fourfold.optimizers.cadence import Every
from fourfold.optimizers.control import Control
from fourfold.optimizers.players import PlayerSettings, checked_arguments
from fourfold.optimizers.precision import Precision

Share = Annotated[float, Ge(0), Le(1)]


class Gradient(Optimizer):
    """Gradient descent in its many forms: torch's optimizers under a schedule and a budget."""

    kind: Literal["gradient"] = "gradient"
    algorithm: str = "adamw"
    """A torch optimizer by name: adamw, adam, sgd, rmsprop, adagrad, muon, ... Muon moves the hidden
    matrices and filters and leaves the rest to AdamW. lars and lamb are for large batches."""
    arguments: dict[str, Any] = {}
    """Keyword arguments of that torch optimizer, as momentum=0.9, nesterov=true or betas=[0.9, 0.95]."""
    lr: PositiveFloat = 1e-3
    """Peak learning rate."""
    lr_batch: PositiveInt | None = None
    """Examples in a step for which the rates are meant: they grow and fall in proportion to those that a step has.
    None means whatever it has."""
    other_lr: PositiveFloat | None = None
    """With Muon, the rate of what AdamW moves; None means 0.15 lr."""
    rates: dict[str, PositiveFloat] = {}
    """Learning rates of single players, as generator=1e-4; the others take lr."""
    steps: PositiveInt | None = 1000
    """Budget in optimizer steps. One of steps, epochs and minutes is the budget."""
    epochs: PositiveFloat | None = None
    """Budget in passes over the training split."""
    minutes: PositiveFloat | None = None
    """Budget in minutes of training; the schedule is annealed to its end."""
    schedule: schedules.Name = "cosine"
    """Shape of the learning rate after the warm-up; wsd is warm-up, stable, decay; inverse_sqrt falls with the root of
    the steps in units of the warm-up."""
    warmup: NonNegativeFloat = 0.0
    """Linear warm-up: a share of the budget if below 1, otherwise a number of steps, a tenth of the budget at most."""
    final: Share = 0.0
    """Learning rate at the end of the budget, as a share of the peak."""
    decay_from: Share = 0.8
    """With wsd, the share of the budget after which the rate falls."""
    decay: NonNegativeFloat = 0.0
    """Decoupled weight decay per unit of learning rate; norms, biases and embeddings are left alone."""
    l2: NonNegativeFloat = 0.0
    """Weight of the penalty l2/2 |w|^2 added to the mean loss; the same weights as decay."""
    l1: NonNegativeFloat = 0.0
    """Weight of the penalty l1 |w| added to the mean loss; the same weights as decay."""
    clip: PositiveFloat | None = None
    """Largest norm of a player's gradient; None leaves it as it is."""
    freeze: tuple[str, ...] = ()
    """Parameters that stay as they are, by name pattern, as "blocks.0.*"; a module's name stands for all of its."""
    accumulate: PositiveInt = 1
    """Batches per step: their gradients are summed before the step."""
    precision: Precision = "auto"
    """Format of matrix products; auto takes bfloat16 where model and hardware gain from it."""
    compile: bool | None = None
    """Use torch.compile; None decides by whether it pays within the budget."""
    ema: Annotated[float, Gt(0), Lt(1)] | None = None
    """Decay of an exponential moving average of the weights, which is then what is kept; None means none."""
    evaluate_every: Every = "5%"
    """How often the validation split is measured: steps ("100"), time ("30s", "2m") or share of the budget ("5%")."""
    checkpoint_every: Every = "60s"
    """How often a checkpoint is written."""
    log_every: Every = "10"
    """How often a line is added to metrics.jsonl."""
    patience: PositiveInt | None = None
    """Stop early after this many evaluations without a better one."""
    control: Control | None = None
    """A controller that moves a number of the objective, or the learning rate, towards what was set; None for none."""

    shared: ClassVar[bool] = True
    exclusive: ClassVar[tuple[tuple[str, ...], ...]] = (("steps", "epochs", "minutes"),)

    @model_validator(mode="before")
    @classmethod
    def _one_budget(cls, values: Any) -> Any:
        # Gradient(epochs=3) means epochs, not epochs beside the default of steps
        if isinstance(values, dict) and "steps" not in values:
            if values.get("epochs") is not None or values.get("minutes") is not None:
                values = {**values, "steps": None}
        return values

    @model_validator(mode="after")
    def _checked(self) -> Self:
        given = [n for n in ("steps", "epochs", "minutes") if getattr(self, n) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none"
            raise ValueError(f"expected one budget of steps, epochs and minutes, got {got}")
        checked_arguments(self.algorithm.lower(), self.arguments)
        if self.algorithm.lower() != "muon" and self.other_lr is not None:
            raise ValueError("other_lr goes with algorithm muon only; rates sets single players")
        return self

    def settings(self, player: str, batch: int | None = None) -> PlayerSettings:
        """What one player's torch optimizers are made with.

        Args:
            player: its name.
            batch: examples of a batch, where the rates grow with them (Goyal et al. 2017).
        """
        lr = self.rates.get(player, self.lr)
        grown = batch * self.accumulate / self.lr_batch if batch and self.lr_batch else 1.0
        lr = lr * grown
        return PlayerSettings(
            self.algorithm.lower(),
            self.arguments,
            lr=lr,
            other_lr=grown * self.other_lr if self.other_lr else 0.15 * lr,
            decay=self.decay,
            l2=self.l2,
            l1=self.l1,
        )

    def factor(self, step: int, progress: float) -> float:
        """The learning rate of a step as a share of its peak."""
        return schedules.factor(
            self.schedule,
            step,
            progress,
            warmup=self.warmup,
            final=self.final,
            decay_from=self.decay_from,
        )

    def minimize(self, objective: Objective, model: nn.Module, data: Data, run: Run) -> None:
        """Search until the budget is spent or patience runs out; resumes where `run` holds a checkpoint.

        Raises:
            Diverged: the loss or a gradient is not finite.
            UserError: a step in which nothing counts; no room to write a checkpoint.
            Interrupted: Ctrl-C or SIGTERM, after a checkpoint was written.
        """
        from fourfold.optimizers.search import Search

        Search(self, objective, model, data, run).run_to_end()
