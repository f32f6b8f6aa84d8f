"""What systems that predict from a table by a network share: its options, how it is built, what is said of it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, Self, cast

import torch
from annotated_types import Ge, Gt, Lt
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)
from torch import nn

from fourfold.core.errors import UserError
from fourfold.core.evaluation import held_out, to_device
from fourfold.core.parts import Data, Part
from fourfold.core.run import Run
from fourfold.core.types import Picture, Table
from fourfold.data.table import TableData, Tabular
from fourfold.models.activations import activation, known_activation
from fourfold.models.initialize import Scheme
from fourfold.models.mlp import MLP, Layers, Norm
from fourfold.models.tabular import Columns, Periodic, PiecewiseLinear
from fourfold.models.ties import tie
from fourfold.objectives.automatic import Automatic
from fourfold.objectives.labels import MultiLabelMargin
from fourfold.objectives.supervised import Supervised
from fourfold.optimizers.cadence import Every
from fourfold.optimizers.gradient import Gradient
from fourfold.optimizers.precision import Precision
from fourfold.tasks.prediction import Predictor

FEW = 2_000
"""Training rows below which several members help, and bins of numbers overfit (docs/experiments.md)."""
MEMBERS = 2
"""Members there: more are hardly better and cost a step each."""
BINS = ((10_000, 64), (5_000, 32), (FEW, 16))
"""Bins of a number from how many training rows on."""
BINNED = 2_048
"""Bins of all numbers together at most; more make the first layer slow."""


class PlainNumbers(Part):
    """Numbers as they are prepared, and nothing else."""

    kind: Literal["plain"] = "plain"


class PiecewiseNumbers(Part):
    """Numbers, and how far each fills each of several bins."""

    kind: Literal["piecewise"] = "piecewise"
    bins: PositiveInt | None = None
    """Bins of a number, with equally many training rows; None means 16 to 64 by the number of training rows, and
    none below 2,000."""
    outputs: PositiveInt | None = None
    """Numbers that a layer of its own makes of each number's bins; None takes the bins themselves."""


class PeriodicNumbers(Part):
    """Numbers, and sines and cosines of each at frequencies that are learned."""

    kind: Literal["periodic"] = "periodic"
    frequencies: PositiveInt = 16
    """Frequencies of a number."""
    scale: PositiveFloat = 0.1
    """Standard deviation of the initial frequencies, in periods per deviation of the number."""
    outputs: PositiveInt | None = 16
    """Numbers that a layer of its own makes of each number's sines; None takes the sines themselves."""


Numbers = Annotated[PlainNumbers | PiecewiseNumbers | PeriodicNumbers, Field(discriminator="kind")]
Share = Annotated[float, Ge(0), Lt(1)]


class TableSearch(Gradient):
    """Gradient search as networks on tables want it."""

    lr: PositiveFloat | None = None  # type: ignore[assignment]  # decided before the search
    """Peak learning rate; None means 0.02 below 2,000 training rows and 0.005 from there on."""
    steps: PositiveInt | None = None
    """Budget in optimizer steps. One of steps, epochs and minutes is the budget."""
    epochs: PositiveFloat | None = 40
    """Budget in passes over the training split."""
    decay: NonNegativeFloat | None = None  # type: ignore[assignment]
    """Decoupled weight decay per unit of learning rate; norms, biases and embeddings are left alone. None means
    0.5 below 2,000 training rows and 0.1 from there on."""
    precision: Precision = "float32"
    """Format of matrix products; auto takes bfloat16 where model and hardware gain from it."""
    evaluate_every: Every = "2%"
    """How often the validation split is measured: steps ("100"), time ("30s", "2m") or share of the budget ("5%")."""
    ema: Annotated[float, Gt(0), Lt(1)] | None = 0.99
    """Decay of an exponential moving average of the weights, which is then what is kept; None means none."""
    patience: PositiveInt | None = 15
    """Stop early after this many evaluations without a better one."""

    def suited(self, rows: int) -> Self:
        """With a learning rate and a weight decay for so many training rows, where none is given."""
        few = rows < FEW
        lr = self.lr or (2e-2 if few else 5e-3)
        decay = (0.5 if few else 0.1) if self.decay is None else self.decay
        return self.model_copy(update={"lr": lr, "decay": decay})


class NetworkPredictor(Predictor):
    """A target predicted from a table's columns by a multi-layer perceptron."""

    data: Tabular = Tabular(batch=None, embed_above=32)
    layers: NonNegativeInt | None = 2
    """Hidden layers; 0 makes a linear model."""
    width: PositiveInt | None = 128
    """Units of each hidden layer."""
    widths: tuple[PositiveInt, ...] | None = None
    """Units of the hidden layers one by one, as 256,128, instead of layers and width."""
    activation: str = "relu"
    """Any of torch's activations, as relu, gelu, silu, tanh or leaky_relu; none leaves a linear model."""
    norm: Norm = "batch"
    """What is normalized between a layer and its activation: each unit over the batch, or each row over its units."""
    dropout: Share = 0.2
    """Chance of a hidden unit to be left out while learning."""
    input_noise: NonNegativeFloat = 0.0
    """Standard deviation of Gaussian noise on the prepared columns while learning."""
    activation_noise: NonNegativeFloat = 0.0
    """Standard deviation of Gaussian noise on hidden units while learning."""
    weight_noise: NonNegativeFloat = 0.0
    """Standard deviation of Gaussian noise on the weights of each batch."""
    residual: bool = False
    """Add each hidden layer's input to its output, through a learned matrix where their widths differ."""
    phm: PositiveInt = 1
    """Kronecker products that a hidden layer's matrix is summed of: it has 1/phm of a dense layer's weights."""
    optimizer: TableSearch = TableSearch()
    members: PositiveInt | None = None
    """Networks that share their hidden layers and are averaged; each has its own scale of inputs and outputs. None
    means 2 below 2,000 training rows and 1 from there on."""
    numbers: Numbers = PiecewiseNumbers()
    """What the network sees of numbers: plain, piecewise (piecewise-linear bins beside them) or periodic."""
    code_width: PositiveInt = 16
    """Numbers that are learned for each category of a column with more than data.embed_above of them."""
    initialization: Scheme = "torch"
    """Initial weights: torch's own, xavier, he or orthogonal, with the gain of the activation."""
    tie: tuple[str, ...] = ()
    """Name patterns of parameters that are one parameter, as "blocks.[12].linear.weight"."""

    exclusive = (("widths", "layers"), ("widths", "width"))
    search_space: ClassVar[dict[str, str]] = {
        "optimizer.lr": "5e-4..2e-2:log",
        "width": "32..512:log",
        "layers": "1..4",
        "dropout": "0..0.5",
        "optimizer.decay": "1e-3..1:log",
        "norm": "none,batch,layer",
    }

    @field_validator("activation")
    @classmethod
    def _known(cls, name: str) -> str:
        return known_activation(name)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        alike = (self.layers is not None, self.width is not None)
        if alike != ((True, True) if self.widths is None else (False, False)):
            raise ValueError("widths: give either widths or layers and width")
        if self.phm > 1 and self.initialization == "orthogonal":
            raise ValueError("initialization orthogonal is for dense layers: it needs phm 1")
        return self

    def build(self, data: Data) -> nn.Module:
        """The network for a table's columns, with as many outputs as the objective asks for."""
        table = cast(TableData, data)
        objective = self.objective
        assert isinstance(objective, Automatic | Supervised)  # noqa: S101
        loss = objective.chosen(table.target)
        columns = self._columns(table)
        layers = Layers(
            self.activation,
            self.norm,
            self.dropout,
            self.activation_noise,
            self.weight_noise,
            self.residual,
            self.phm,
            self.initialization,
        )
        model = MLP(
            columns,
            columns.outputs,
            self._widths,
            loss.outputs(table.target),
            layers,
            members=self._members(table),
        ).to(getattr(torch, self.data.dtype))
        tie(model, self.tie)
        return model

    @property
    def _widths(self) -> tuple[int, ...]:
        if self.widths is not None:
            return self.widths
        assert self.layers is not None and self.width is not None  # noqa: S101
        return (self.width,) * self.layers

    def _bins(self, data: TableData) -> int | None:
        """Bins of a number; None leaves numbers plain."""
        if not isinstance(self.numbers, PiecewiseNumbers):
            return None
        if self.numbers.bins is not None:
            return self.numbers.bins
        numbers = sum(column.kind == "number" for column in data.columns)
        suited = next((bins for rows, bins in BINS if data.target.rows >= rows), None)
        return suited and max(4, min(suited, BINNED // max(1, numbers)))

    def _members(self, data: TableData) -> int:
        if self.members is not None:
            return self.members
        return MEMBERS if data.target.rows < FEW else 1

    def _columns(self, data: TableData) -> Columns:
        kinds = [column.kind for column in data.columns]
        numbers: nn.Module | None = None
        outputs = None
        bins = self._bins(data)
        if bins is not None:
            numbers = PiecewiseLinear(data.quantiles(bins))
        elif isinstance(self.numbers, PeriodicNumbers):
            options = self.numbers
            numbers = Periodic(kinds.count("number"), options.frequencies, options.scale)
        if numbers is not None and not isinstance(self.numbers, PlainNumbers):
            outputs = self.numbers.outputs
        return Columns(
            kinds,
            numbers=numbers,
            number_width=outputs,
            sizes=[column.size for column in data.columns if column.kind == "code"],
            code_width=self.code_width,
            noise=self.input_noise,
        )

    def suited(self, run: Run) -> Self:
        """See `System.suited`: the learning rate and the weight decay by the number of training rows."""
        rows = cast(TableData, run.data).target.rows
        chosen = self.optimizer.suited(rows)
        if chosen != self.optimizer:
            run.note(
                f"Learning rate {chosen.lr:g}, weight decay {chosen.decay:g}, by the {rows:,} training rows "
                "(--lr, --decay)."
            )
        return super().suited(run).model_copy(update={"optimizer": chosen})

    # --- what is said ---------------------------------------------------------------------------------

    def begin(self, run: Run) -> None:
        """See `System.begin`: what was chosen by the number of rows, and what cannot work."""
        data = cast(TableData, run.data)
        rows = data.target.rows
        if self.data.batch is None:
            run.note(f"Batches of {data.batch} rows, by the {rows:,} training rows (--batch).")
        automatic = isinstance(self.numbers, PiecewiseNumbers) and self.numbers.bins is None
        if automatic and any(column.kind == "number" for column in data.columns):
            bins = self._bins(data)
            what = f"plain and in {bins} bins each" if bins else "plain"
            run.note(f"Numbers are taken {what}, by the {rows:,} training rows (--numbers.bins).")
        if self.members is None and self._members(data) > 1:
            run.note(
                f"{self._members(data)} members are averaged, for only {rows:,} training rows (--members)."
            )
        if isinstance(run.objective, MultiLabelMargin):
            run.note(
                "The margin ranks the labels of a row, and does not place them about 0, where it is decided which "
                "are there: binary-cross-entropy decides better."
            )
        if not data.size("valid"):
            run.note(
                "No validation rows: nothing tells when to stop, so the last weights are kept "
                "(--data.split keeps some out)."
            )
        if self.activation == "none" and self._widths:
            many = len(self._widths) + 1
            run.note(
                f"Activation none: {many} layers of sums of sums are one layer, W{many} ... W1 x + b, so this is "
                "a linear model whatever its depth; --activation relu makes it more."
            )

    def _depths(self, seed: int) -> tuple[Picture, Table]:
        """Of this network's activation."""
        from fourfold.look.depth import depth_picture

        make = functools.partial(activation, self.activation)
        make.__name__ = type(make()).__name__  # type: ignore[attr-defined]  # for the caption
        return depth_picture(activation=make, seed=seed)

    def tables(self, run: Run) -> Iterator[Table]:
        """What every predictor shows; of a network without activations, the one layer that it is."""
        yield from super().tables(run)
        model = cast(MLP, run.model)
        if self.activation == "none" and self._widths and self.norm != "layer":
            yield _one_layer(run, model)


@torch.no_grad()
def _one_layer(run: Run, model: MLP) -> Table:
    """A network without activations beside the single layer that equals it, on held-out rows."""
    try:
        data, split, where = held_out(run)
    except UserError:
        data, split, where = run.data, "train", "none"
    matrix, bias = model.collapsed()
    largest = 0.0
    for batch in data.batches(split) if where != "none" else ():
        features = to_device(batch, run.device)["features"]
        one = model.columns(features) @ matrix.T + bias
        largest = max(largest, float((model(features) - one).abs().max()))
    return Table(
        "Without activations: one layer",
        ("", "layers", "parameters", "largest difference of outputs"),
        (
            ("this network", model.layer_count, sum(p.numel() for p in model.parameters()), 0.0),
            ("W x + b", 1, matrix.numel() + bias.numel(), largest),
        ),
        f"The product of the layers' matrices gives the same outputs {where}.",
    )
