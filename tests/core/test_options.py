"""Options: overrides change their field only, unknown names are errors, files and flags agree."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, PositiveFloat, PositiveInt

import fourfold
from fourfold.api import configure
from fourfold.core.errors import UserError
from fourfold.core.folders import without_none
from fourfold.core.options import complete, construct, merge, options, parse, resolve, short_names
from fourfold.core.parts import Optimizer, Part
from fourfold.core.registry import register
from fourfold.core.system import system
from fourfold.optimizers.closed_form import ClosedForm
from fourfold.optimizers.gradient import Gradient
from helpers import RowsOptions, RowSystem, Squares


class Square(Squares):
    kind: Literal["square"] = "square"
    scale: PositiveFloat = 1.0
    """Factor of the loss."""


class Huber(Squares):
    kind: Literal["huber"] = "huber"
    delta: PositiveFloat = 1.0
    """Where the loss turns linear."""
    scale: PositiveFloat = 3.0
    """Factor of the loss."""


class Inner(Part):
    depth: PositiveInt = 2
    """How deep."""
    colours: tuple[str, ...] = ("red",)
    """Which."""


Objectives = Annotated[Square | Huber, Field(discriminator="kind")]
Optimizers = Annotated[Gradient | ClosedForm, Field(discriminator="kind")]


@system("optional", reads="tensors")
class Optional(RowSystem):
    """A system with a choice of everything."""

    data: RowsOptions = RowsOptions(batch=16)
    objective: Objectives = Huber(delta=0.5)  # type: ignore[assignment]
    optimizer: Optimizers = Gradient(
        lr=0.07, clip=2.0, arguments={"betas": [0.8, 0.9]}, steps=None, epochs=3
    )  # type: ignore[assignment]
    inner: Inner = Inner(depth=5)
    """A part of a part."""
    layers: list[int] = [1, 2]
    """Sizes."""
    limit: int | None = 4
    """Most."""
    mode: Literal["fast", "slow", None] = "fast"
    """How."""
    sizes = {"big": {"layers": [8, 8], "optimizer.lr": 0.5, "dropout": 0.1}}


def changed(**overrides: Any) -> dict[str, Any]:
    """Fields that differ from the defaults, by dotted name."""
    return (
        dict(_leaves(merge(Optional, overrides).model_dump())).items()
        - dict(_leaves(Optional().model_dump())).items()
    )  # type: ignore[return-value]


def _leaves(tree: dict[str, Any], path: str = "") -> list[tuple[str, str]]:
    found = []
    for key, value in tree.items():
        if isinstance(value, dict) and key != "arguments":
            found += _leaves(value, f"{path}{key}.")
        else:
            found.append((f"{path}{key}", repr(value)))
    return found


# --- merging -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["optimizer.lr", "lr", "optimizer-lr".replace("-", ".")])
@pytest.mark.parametrize("value", ["0.001", 0.001, "1e-3"])
def test_an_override_changes_its_field_only(name: str, value: Any) -> None:
    assert changed(**{name: value}) == {("optimizer.lr", "0.001")}
    made = merge(Optional, {name: value})
    assert made.optimizer.clip == 2.0  # as the system set it, not the class  # type: ignore[attr-defined]
    assert made.optimizer.arguments == {"betas": [0.8, 0.9]}  # type: ignore[attr-defined]


def test_a_nested_override_changes_its_field_only() -> None:
    assert changed(optimizer={"lr": 1}) == {("optimizer.lr", "1.0")}
    assert changed(**{"inner.colours": "blue,green"}) == {("inner.colours", "('blue', 'green')")}
    assert changed(depth="7") == {("inner.depth", "7")}
    assert changed(**{"log-every": "7"}) == {("optimizer.log_every", "'7'")}


def test_a_part_given_whole_replaces_the_part() -> None:
    made = merge(Optional, {"optimizer": Gradient(lr=0.3), "objective": Square(scale=2)})
    assert made.optimizer == Gradient(lr=0.3) and made.objective == Square(scale=2)
    assert merge(Optional, {"optimizer": ClosedForm(ridge=2.0)}).optimizer == ClosedForm(ridge=2.0)


def test_overrides_merge_into_a_configured_base() -> None:
    base = merge(Optional, {"lr": 0.2, "objective": "square"})
    made = merge(Optional, {"clip": 9}, base=base)
    assert made.optimizer.lr == 0.2 and made.optimizer.clip == 9  # type: ignore[attr-defined]
    assert made.objective == Square()


def test_explicit_options_win_over_a_size() -> None:
    made = configure(Optional, {"dropout": 0.4}, size="big")
    assert (made.layers, made.optimizer.lr, made.dropout) == ([8, 8], 0.5, 0.4)  # type: ignore[attr-defined]
    assert made.optimizer.clip == 2.0  # type: ignore[attr-defined]
    with pytest.raises(
        UserError, match="--size bigg: optional has no such size; did you mean big?"
    ):
        configure(Optional, {}, size="bigg")
    with pytest.raises(UserError, match="it has no sizes"):
        configure(RowSystem, {}, size="big")


# --- choices -----------------------------------------------------------------------------------------


def test_a_choice_by_kind() -> None:
    assert merge(Optional, {"objective": "square"}).objective == Square()
    assert merge(Optional, {"objective.kind": "square"}).objective == Square()
    assert merge(Optional, {"objective": {"kind": "square", "scale": 5}}).objective == Square(
        scale=5
    )
    # the present kind keeps what the system has set, and an omitted kind is the default's
    assert merge(Optional, {"objective": "huber"}).objective == Huber(delta=0.5)
    assert merge(Optional, {"delta": "2"}).objective == Huber(delta=2)
    assert merge(Optional, {"scale": 2, "objective": "square"}).objective == Square(scale=2)


def test_switching_kinds_back_takes_the_kinds_own_defaults() -> None:
    switched = merge(Optional, {"objective": "square", "scale": 7})
    assert merge(Optional, {"objective": "huber"}, base=switched).objective == Huber()


def test_a_field_of_another_kind_is_refused() -> None:
    with pytest.raises(UserError, match="--objective.delta goes with objective huber only"):
        merge(Optional, {"objective": "square", "delta": 2})
    with pytest.raises(UserError, match="objective huberr: no such choice; did you mean huber?"):
        merge(Optional, {"objective": "huberr"})
    with pytest.raises(UserError, match="expected one of square, huber, got 3"):
        merge(Optional, {"objective": 3})


def test_options_of_variants_say_which() -> None:
    known = options(Optional)
    assert known[("objective", "delta")].kinds == ("huber",)
    assert known[("objective", "delta")].default == 0.5  # as the system set it
    assert known[("objective", "scale")].kinds == ("square", "huber")
    assert known[("objective",)].default == "huber"
    assert known[("optimizer", "ridge")].kinds == ("closed-form",)
    assert known[("optimizer", "lr")].help == "Peak learning rate."


# --- exclusive budgets -------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [{"steps": "50"}, {"minutes": 2}, {"optimizer.epochs": 9}])
def test_a_budget_given_replaces_the_budget(budget: dict[str, Any]) -> None:
    made: Any = merge(Optional, budget).optimizer
    given_, value = next(iter(budget.items()))
    name = given_.rpartition(".")[2]
    got = {n: getattr(made, n) for n in ("steps", "epochs", "minutes")}
    assert got == {"steps": None, "epochs": None, "minutes": None, name: float(value)}
    assert made.clip == 2.0


def test_two_budgets_and_none_are_refused() -> None:
    with pytest.raises(
        UserError, match="expected one budget of steps, epochs and minutes, got steps and epochs"
    ):
        merge(Optional, {"steps": 5, "epochs": 5})
    with pytest.raises(
        UserError, match="expected one budget of steps, epochs and minutes, got none"
    ):
        merge(Optional, {"epochs": None})
    assert merge(Optional, {"steps": 5, "epochs": None}).optimizer.steps == 5  # type: ignore[attr-defined]


# --- names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("dropuot", "dropout"),
        ("learning_rate", ""),
        ("optimizer.lrr", "optimizer.lr"),
        ("optimiser.lr", "optimizer.lr"),
        ("inner.depht", "inner.depth"),
        ("depht", "depth"),
        ("warm-up", "warmup"),
        ("data.batchs", "data.batch"),
        ("dropout.rate", "dropout"),
        ("objective.kinds", ""),
    ],
)
def test_unknown_names_are_refused_at_every_depth(name: str, suggestion: str) -> None:
    with pytest.raises(UserError) as error:
        merge(Optional, {name: 1})
    said = str(error.value)
    assert said.startswith(f"unknown option {name} of optional")
    if suggestion:
        assert said.endswith(f"did you mean {suggestion}?")


def test_short_names_are_those_that_are_unique() -> None:
    known = short_names(Optional)
    assert known["lr"] == ("optimizer", "lr") and known["depth"] == ("inner", "depth")
    assert "kind" not in known
    assert resolve(Optional, "objective.kind") == ("objective",)


def test_a_short_name_that_two_have_is_refused() -> None:
    class Ambiguous(Optional):
        other: Inner = Inner()

    with pytest.raises(
        UserError, match="option depth: stands for inner.depth and other.depth; give the whole name"
    ):
        merge(Ambiguous, {"depth": 3})
    assert merge(Ambiguous, {"other.depth": 3}).other.depth == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"lr": "fast"}, "--optimizer.lr: expected a valid number"),
        ({"lr": 0}, "--optimizer.lr: expected greater than 0, got 0"),
        ({"inner": {"depth": 0}}, "--inner.depth: expected greater than 0, got 0"),
        ({"mode": "slwo"}, "--mode: expected 'fast', 'slow' or None, got 'slwo'"),
        ({"layers": "1,x"}, "--layers"),
        ({"layers": "[1,"}, "[1,: not valid JSON"),
        ({"ema": 1.0}, "--optimizer.ema: expected less than 1"),
        ({"rates": "3,1"}, "--optimizer.rates: expected names with their values, as a=1,b=2 or JSON, got '3,1'"),
    ],
)  # fmt: skip
def test_values_out_of_range_name_their_field(given_: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        merge(Optional, given_)
    assert message in str(error.value) and "\n" not in str(error.value)


# --- values from text --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("1,2,3", list[int], ["1", "2", "3"]),
        ("[1, 2]", list[int], [1, 2]),
        ("a, b", tuple[str, ...], ["a", "b"]),
        ("", list[str], []),
        ('{"a": 1}', dict[str, Any], {"a": 1}),
        ("none", int | None, None),
        ("None", str | None, None),
        ("none", str, "none"),
        ("none", Literal["none", "some"], "none"),
        ("0.5", float, "0.5"),
        ("3", Literal[1, 3], 3),
        ("[0.9, 0.95]", Any, [0.9, 0.95]),
        ("word", Any, "word"),
        (5, int, 5),
    ],
)
def test_text_becomes_a_value(text: Any, annotation: Any, value: Any) -> None:
    assert parse(text, annotation) == value


def test_lists_dicts_and_none_from_text() -> None:
    made: Any = merge(
        Optional, {"layers": "3,4", "limit": "none", "arguments": '{"eps": 1e-6}', "mode": "none"}
    )
    assert (made.layers, made.limit, made.mode) == ([3, 4], None, None)
    assert made.optimizer.arguments == {"eps": 1e-6}
    assert merge(Optional, {"layers": "[]"}).layers == []  # type: ignore[attr-defined]
    nested: Any = merge(Optional, {"optimizer.arguments.eps": "1e-6"})
    assert nested.optimizer.arguments == {"betas": [0.8, 0.9], "eps": 1e-6}


# --- TOML --------------------------------------------------------------------------------------------

overrides = st.fixed_dictionaries(
    {},
    optional={
        "limit": st.none() | st.integers(-5, 5),
        "mode": st.sampled_from(["fast", "slow", None]),
        "layers": st.lists(st.integers(-3, 3), max_size=3),
        "clip": st.none() | st.floats(0.1, 5),
        "ema": st.none() | st.floats(0.1, 0.9),
        "patience": st.none() | st.integers(1, 5),
        "depth": st.integers(1, 4),
        "objective": st.sampled_from(["square", "huber"]),
        "arguments": st.dictionaries(st.sampled_from(["eps", "amsgrad"]), st.floats(0, 1)),
    },
)


@settings(deadline=None, max_examples=60)
@given(overrides)
def test_a_configuration_comes_back_from_toml(overrides: dict[str, Any]) -> None:
    import tomllib

    made = merge(Optional, overrides)
    text = tomli_w.dumps(without_none(made.model_dump(mode="json")))
    assert construct(Optional, complete(Optional, tomllib.loads(text))) == made


def test_an_absent_key_is_none_and_not_the_default() -> None:
    tree = Optional().model_dump()
    del tree["limit"], tree["optimizer"]["clip"], tree["layers"]
    completed = complete(Optional, tree)
    assert completed["limit"] is None and completed["optimizer"]["clip"] is None
    assert "layers" not in completed  # None is no value of it
    assert construct(Optional, completed).limit is None


def test_a_part_of_a_class_that_only_its_base_knows_stays_of_its_class() -> None:
    class Own(Optimizer):
        speed: float = 2.0
        """How fast."""

        def minimize(self, *_: Any) -> None:
            pass

    class General(RowSystem):
        optimizer: Optimizer = Own()  # type: ignore[assignment]

    assert merge(General, {"dropout": 0.5}).optimizer == Own()


def test_register_makes_a_class_known() -> None:
    register(Optional)
    assert (
        fourfold.fit("optional", out=False, steps=1, optimizer={"lr": 0.01}).system.name
        == "optional"
    )


def test_a_dict_is_given_as_pairs_or_json() -> None:
    for text in ("momentum=0.9,nesterov=true", '{"momentum": 0.9, "nesterov": true}'):
        configured = merge(RowSystem, {"optimizer.arguments": text})
        assert configured.optimizer.arguments == {"momentum": 0.9, "nesterov": True}  # type: ignore[attr-defined]
    betas = merge(RowSystem, {"algorithm": "adam", "arguments": "betas=[0.8, 0.9],eps=1e-6"})
    assert betas.optimizer.arguments == {"betas": [0.8, 0.9], "eps": 1e-6}  # type: ignore[attr-defined]


def test_a_part_that_may_be_none_is_set_whole() -> None:
    made = merge(Optional, {"optimizer.control.setpoint": 3.0})
    assert made.optimizer.control.setpoint == 3.0  # type: ignore[attr-defined]
    assert merge(Optional, {"optimizer.control": None}, base=made).optimizer.control is None  # type: ignore[attr-defined]
