"""Slots filled: paths merged, lengths as wanted, further passes, and rows that never see one another."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.models.filling import Wanted, fill, merged, of_length
from fourfold.models.non_autoregressive import UNKNOWN, NonAutoregressive
from fourfold.models.products import Product, with_products

END = 0
LENGTHS = ["predicted", "ctc", "overlong"]


def model(length: Any, **more: Any) -> NonAutoregressive:
    torch.manual_seed(0)
    made = NonAutoregressive(
        9, 9, 8, (1, 2), 2, 12, window=60, shared=True, length=length, begin=END, end=END, **more
    )
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(3.0)  # so that slots differ
    return made.double().eval()


def sources() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randint(1, 9, (5, 7)), torch.tensor([7, 3, 1, 5, 2])


@given(st.lists(st.integers(0, 3), max_size=9))
def test_equal_neighbours_are_merged_and_blanks_left_out(path: list[int]) -> None:
    assert merged(path, END) == [key for key, _ in itertools.groupby(path) if key != END]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 7), st.integers(1, 5), st.integers(0, 1000))
def test_a_target_of_given_length_is_the_best_of_all_paths(
    slots: int, count: int, seed: int
) -> None:
    torch.manual_seed(seed)
    blanks, labels = torch.randn(2, slots, dtype=torch.float64).unbind()
    tokens = torch.randint(1, 3, (slots,))
    found = of_length(blanks, labels, tokens, count)
    best: dict[int, tuple[float, list[int]]] = {}
    for choice in itertools.product([False, True], repeat=slots):
        path = [int(tokens[n]) if said else END for n, said in enumerate(choice)]
        score = sum(float(labels[n] if said else blanks[n]) for n, said in enumerate(choice))
        row = merged(path, END)
        if len(row) not in best or score > best[len(row)][0]:
            best[len(row)] = score, row
    assert found == best[max(n for n in best if n <= count)][1]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("input", ["copy", "uniform", "begin"])
def test_padding_and_batch_mates_never_change_an_answer(length: Any, input: Any) -> None:
    made = model(length, input=input)
    source, lengths = sources()
    how = Wanted(passes=1 if length == "ctc" else 3)
    together = fill(made, source, lengths, how)
    for row, count in enumerate(lengths.tolist()):
        alone = fill(made, source[row : row + 1, :count], lengths[row : row + 1], how)
        assert alone[0][0] == together[row][0]


@pytest.mark.parametrize("length", LENGTHS)
def test_the_length_is_the_users_to_set(length: Any) -> None:
    made = model(length)
    source, lengths = sources()
    passes = 1 if length == "ctc" else 2
    for size in (1, 4, 20):
        sizes = torch.full((5,), size)
        found = fill(made, source, lengths, Wanted(passes=passes, sizes=sizes))
        held = [len(tokens) for tokens, _ in found]
        if length == "ctc":  # where neighbouring slots all want the same label there are fewer
            assert max(held) <= size
        else:
            assert held == [size] * 5
        assert all(END not in tokens for tokens, _ in found)


def test_a_factor_of_the_predicted_length() -> None:
    made = model("predicted")
    source, lengths = sources()
    plain = [len(tokens) for tokens, _ in fill(made, source, lengths)]
    half = [len(tokens) for tokens, _ in fill(made, source, lengths, Wanted(scale=0.5))]
    assert half == [max(1, round(n * 0.5 + 1e-9) if n % 2 == 0 else round(n * 0.5)) for n in plain]


def test_further_passes_ask_the_least_sure_anew_and_leave_the_surest() -> None:
    made = model("predicted")
    source, lengths = sources()
    sizes = torch.full((5,), 6)
    calls: list[torch.Tensor | None] = []

    def watch(module: Any, given: Any) -> None:
        calls.append(given[5] if len(given) > 5 else None)

    handle = made.register_forward_pre_hook(watch)
    fill(made, source, lengths, Wanted(passes=3, sizes=sizes))
    handle.remove()
    told = [0 if known is None else int((known >= 0).sum(1)[0]) for known in calls]
    assert told == [0, 2, 4]  # of six tokens four, then two are asked anew
    memory, keep = made.encode(source, lengths)
    logits = made.head(made(source, lengths, memory, keep, sizes))
    logits[..., END] = -torch.inf
    sure, said = logits.log_softmax(-1).max(-1)
    surest = sure >= sure.sort(1, descending=True).values[:, 1:2]
    assert torch.equal(calls[1], said.where(surest, UNKNOWN))  # type: ignore[arg-type]


def test_more_candidates_give_a_surer_translation() -> None:
    made = model("predicted")
    source, lengths = sources()
    many = fill(made, source, lengths, Wanted(candidates=5))
    for candidates in (2, 3):
        some = fill(made, source, lengths, Wanted(candidates=candidates))
        assert all(a[1] >= b[1] - 1e-12 for a, b in zip(many, some, strict=True))


def test_tokens_that_must_not_come_do_not() -> None:
    for length in LENGTHS:
        found = fill(model(length), *sources(), Wanted(never=(3, 5)))
        assert not {3, 5} & {token for tokens, _ in found for token in tokens}


def test_ctc_has_no_further_passes() -> None:
    with pytest.raises(ValueError, match="CTC"):
        fill(model("ctc"), *sources(), Wanted(passes=2))


def test_products_say_what_linear_layers_say() -> None:
    made = model("overlong")
    copied = with_products(made, torch.float64)
    assert any(isinstance(m, Product) for m in copied.modules())
    assert not any(isinstance(m, Product) for m in made.modules())
    assert fill(copied, *sources()) == fill(made, *sources())
    narrow = with_products(made.float(), torch.bfloat16)
    x = torch.randn(4, 8)
    wide = made.head(x)
    torch.testing.assert_close(narrow.head(x).float(), wide, rtol=0.05, atol=0.1)  # 8 bits
