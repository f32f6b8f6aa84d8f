"""The Transformer: each fast form against its plain one, causality, initialization, errors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fourfold.models import attention_forms as forms
from fourfold.models.attention_forms import attention_explicit, attention_flash
from fourfold.models.norms import RMSNorm, _Normalize
from fourfold.models.position_tables import rotary_table, rotate
from fourfold.models.transformer import Transformer, default_hidden

size = st.integers(1, 5)


def small(**changes: object) -> Transformer:
    torch.manual_seed(0)
    sizes: dict = {"vocabulary": 11, "width": 16, "layers": 2, "heads": 4, "window": 12}
    return Transformer(**{**sizes, **changes})


def with_grads(output: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    torch.manual_seed(1)
    return [output, *torch.autograd.grad(output, inputs, torch.randn_like(output))]


@settings(deadline=None, max_examples=25)
@given(size, st.integers(1, 9), size, st.integers(1, 3), st.sampled_from([1, 3, 64]))
def test_explicit_attention_equals_torch(
    batch: int, time: int, kv_heads: int, groups: int, rows: int
) -> None:
    torch.manual_seed(0)
    q = torch.randn(batch, kv_heads * groups, time, 6, dtype=torch.float64, requires_grad=True)
    k, v = torch.randn(2, batch, kv_heads, time, 6, dtype=torch.float64).unbind()
    inputs = [q, k.requires_grad_(), v.requires_grad_()]
    before, forms.ROWS = forms.ROWS, rows
    try:
        ours = with_grads(attention_explicit(*inputs), inputs)
    finally:
        forms.ROWS = before
    for mine, oracle in zip(ours, with_grads(attention_flash(*inputs), inputs), strict=True):
        torch.testing.assert_close(mine, oracle, rtol=1e-10, atol=1e-12)


def test_attention_forms_agree_in_bfloat16() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, 130, 32).bfloat16().requires_grad_() for _ in range(3)]
    wide = [x.detach().float().requires_grad_() for x in inputs]
    ours = with_grads(attention_explicit(*inputs), inputs)
    torch.manual_seed(1)
    gradient = torch.randn_like(ours[0])
    exact = attention_flash(*wide)
    oracle = [exact, *torch.autograd.grad(exact, wide, gradient.float())]
    for mine, true in zip(ours, oracle, strict=True):  # bfloat16 keeps 8 bits
        torch.testing.assert_close(mine.float(), true, rtol=0.05, atol=0.05)


def test_explicit_attention_passes_gradcheck() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(attention_explicit, inputs)


def test_rotation_is_a_rotation_and_relative() -> None:
    torch.manual_seed(0)
    cos, sin = (table.double() for table in rotary_table(20, 6, 10_000.0))
    x, y = torch.randn(2, 1, 1, 1, 6, dtype=torch.float64).expand(2, 1, 20, 1, 6).unbind()
    a, b = rotate(x, cos, sin)[0, 0], rotate(y, cos, sin)[0, 0]  # (T, D)
    torch.testing.assert_close(a.norm(dim=-1), x[0, :, 0].norm(dim=-1), rtol=1e-6, atol=0)
    products = a @ b.T
    for distance in range(5):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=25)
@given(size, size, st.integers(1, 40))
def test_norm_equals_torch(batch: int, time: int, width: int) -> None:
    torch.manual_seed(0)
    norm = RMSNorm(width, 1e-5).double()
    norm.weight.data.normal_()
    x = torch.randn(batch, time, width, dtype=torch.float64, requires_grad=True)
    ours = with_grads(norm(x), [x, norm.weight])
    plain = F.rms_norm(x, (width,), norm.weight, 1e-5)
    for mine, oracle in zip(ours, with_grads(plain, [x, norm.weight]), strict=True):
        torch.testing.assert_close(mine, oracle, rtol=1e-10, atol=1e-12)


def test_norm_passes_gradcheck() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, w: _Normalize.apply(a, w, 1e-5, a.dtype), (x, weight))


def test_norm_is_exact_under_autocast() -> None:
    torch.manual_seed(0)
    norm, x = RMSNorm(64, 1e-5), torch.randn(4, 64, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = norm(x)
        (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert y.dtype == torch.bfloat16
    plain = F.rms_norm(x, (64,), norm.weight, 1e-5)
    torch.testing.assert_close(y, plain.bfloat16(), rtol=0, atol=0)
    (oracle,) = torch.autograd.grad(plain, x, torch.ones_like(plain))
    torch.testing.assert_close(gradient, oracle, rtol=1e-4, atol=1e-5)


def test_the_future_is_not_seen() -> None:
    model = small()
    tokens = torch.randint(11, (2, 8))
    changed = tokens.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 11
    torch.testing.assert_close(model(changed)[:, :5], model(tokens)[:, :5])
    assert not torch.allclose(model(changed)[:, 5:], model(tokens)[:, 5:])


def test_training_and_evaluation_forms_agree() -> None:
    model, tokens = small(kv_heads=2).double(), torch.randint(11, (2, 12))
    trained = model(tokens)
    with torch.no_grad():
        evaluated = model(tokens)
    torch.testing.assert_close(trained, evaluated, rtol=1e-10, atol=1e-12)


def test_first_loss_is_that_of_guessing() -> None:
    model, tokens = small(vocabulary=200), torch.randint(200, (8, 13))
    loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.item() == pytest.approx(torch.tensor(200.0).log().item(), abs=0.05)


def test_initial_deviations() -> None:
    model = small(width=128, layers=8)
    assert model.embedding.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.blocks[3].attention.query.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.blocks[3].feedforward.down.weight.std().item() == pytest.approx(0.005, rel=0.1)
    assert (model.norm.weight == 1).all()


def test_names_of_weights_are_those_of_stored_runs() -> None:
    block = (
        "attention_norm.weight", "attention.query.weight", "attention.key.weight", "attention.value.weight",
        "attention.out.weight", "feedforward_norm.weight", "feedforward.gate.weight", "feedforward.up.weight",
        "feedforward.down.weight",
    )  # fmt: skip
    blocks = [f"blocks.{i}.{name}" for i in range(2) for name in block]
    names = ["embedding.weight", *blocks, "norm.weight", "head.weight"]
    assert list(small(tied=False).state_dict()) == names


@pytest.mark.parametrize("positions", ["rotary", "learned", "alibi"])
def test_a_scale_is_a_factor_of_the_queries(positions: str) -> None:
    """scale q k' = (factor q) k' / sqrt(D): the same model with queries that are so much longer."""
    torch.manual_seed(0)
    sizes = {
        "vocabulary": 11,
        "width": 16,
        "layers": 2,
        "heads": 2,
        "window": 8,
        "bias": "qkv",
        "positions": positions,
    }
    scaled, plain = Transformer(**sizes, scale=0.7), Transformer(**sizes)
    scaled.initialize(0.5)
    plain.load_state_dict(scaled.state_dict())
    tokens = torch.randint(11, (2, 8))
    assert not torch.allclose(scaled(tokens), plain(tokens), atol=1e-3)
    with torch.no_grad():
        for block in plain.blocks:
            for weight in block.attention.query.parameters():
                weight *= 0.7 * 8**0.5
    torch.testing.assert_close(scaled(tokens), plain(tokens), rtol=1e-4, atol=1e-5)


def test_tied_weights_are_one_tensor() -> None:
    tied, untied = small(tied=True), small(tied=False)
    assert tied.head.weight is tied.embedding.weight
    assert untied.head.weight is not untied.embedding.weight
    more = sum(p.numel() for p in untied.parameters()) - sum(p.numel() for p in tied.parameters())
    assert more == 11 * 16


def test_dropout_only_while_training() -> None:
    model, tokens = small(dropout=0.5), torch.randint(11, (1, 8))
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_dropout_on_the_embedding_and_on_what_each_sublayer_adds() -> None:
    model = small(dropout=0.25)
    seen: list[float] = []
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.register_forward_hook(lambda m, i, out: seen.append(float((out == 0).float().mean())))  # fmt: skip
    model(torch.randint(11, (64, 8)))
    assert len(seen) == 1 + 2 * len(model.blocks)
    assert all(0.15 < share < 0.35 for share in seen)


def test_hidden_is_rounded_up() -> None:
    assert [default_hidden(w) for w in (12, 128, 384, 768)] == [32, 352, 1024, 2048]


@pytest.mark.parametrize(
    "changes", [{"heads": 3}, {"width": 12, "heads": 4}, {"kv_heads": 3}, {"width": 15, "heads": 1}]
)
def test_sizes_that_do_not_divide(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="divisible"):
        small(**changes)


@pytest.mark.parametrize("shape", [(5,), (1, 13), (1, 2, 3)])
def test_tokens_of_a_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="tokens of shape"):
        small()(torch.zeros(shape, dtype=torch.int64))
