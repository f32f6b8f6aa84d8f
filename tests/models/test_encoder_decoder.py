"""The encoder-decoder: layers equal torch's, cached equals uncached, padding and batch mates change nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fourfold.models.attention import lengths_mask, looking
from fourfold.models.encoder_decoder import (
    CrossAttention,
    DecoderLayer,
    EncoderDecoder,
    EncoderLayer,
    SelfAttention,
)
from fourfold.models.incremental import Attending, Incremental
from fourfold.models.positions import KINDS, make_positions
from fourfold.models.products import with_products

WIDTH, HEADS, HIDDEN = 8, 2, 12
size = st.integers(1, 5)
norms: Any = pytest.mark.parametrize("norm", ["pre", "post"])


def model(**changes: Any) -> EncoderDecoder:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "source_vocabulary": 11, "target_vocabulary": 13, "width": WIDTH, "layers": (2, 2), "heads": HEADS,
        "hidden": HIDDEN, "window": 40, "shared": False,
    }  # fmt: skip
    made = EncoderDecoder(**{**sizes, **changes}).double().eval()
    for name, weight in made.named_parameters():  # biases too, so that none is forgotten
        if weight.ndim == 1:
            nn.init.normal_(weight, float(name.endswith("norm.weight")), 0.3)
    return made


def copy_attention(ours: SelfAttention | CrossAttention, theirs: nn.MultiheadAttention) -> None:
    joined = (
        (ours.query_key_value,) if isinstance(ours, SelfAttention) else (ours.query, ours.key_value)
    )
    theirs.in_proj_weight.data = torch.cat([linear.weight.data for linear in joined])
    theirs.in_proj_bias.data = torch.cat([linear.bias.data for linear in joined])
    theirs.out_proj.load_state_dict(ours.out.state_dict())


def layers(ours: Any, theirs: Any) -> None:
    """The oracle gets our weights."""
    copy_attention(ours.attention, theirs.self_attn)
    theirs.linear1.load_state_dict(ours.feedforward.up.state_dict())
    theirs.linear2.load_state_dict(ours.feedforward.down.state_dict())
    around = [ours.around_attention, ours.around_feedforward]
    if isinstance(ours, DecoderLayer):
        copy_attention(ours.cross, theirs.multihead_attn)
        around.insert(1, ours.around_cross)
    for number, residual in enumerate(around, 1):
        getattr(theirs, f"norm{number}").load_state_dict(residual.norm.state_dict())


def randomized(module: Any) -> Any:
    torch.manual_seed(1)
    for weight in module.parameters():
        nn.init.normal_(weight, 0.0, 0.5)
    return module.double()


def padded(rows: int, longest: int) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(rows, longest, WIDTH, dtype=torch.float64)
    lengths = torch.randint(1, longest + 1, (rows,))
    lengths[0] = longest
    return x, lengths, torch.arange(longest) >= lengths[:, None]


@norms
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@settings(deadline=None, max_examples=10)
@given(rows=size, time=size)
def test_encoder_layer_equals_torchs(norm: Any, activation: Any, rows: int, time: int) -> None:
    ours = randomized(EncoderLayer(WIDTH, HEADS, HIDDEN, activation, norm, 0.0, 1e-5))
    theirs = nn.TransformerEncoderLayer(
        WIDTH, HEADS, HIDDEN, 0.0, activation, norm_first=norm == "pre", batch_first=True
    ).double()
    layers(ours, theirs)
    positions = make_positions("none", width=WIDTH, heads=HEADS, window=9)
    x, lengths, padding = padded(rows, time)
    found = ours(x, positions, 0, lengths_mask(lengths, time))
    expected = theirs(x, src_key_padding_mask=padding)
    torch.testing.assert_close(found[~padding], expected[~padding], rtol=1e-10, atol=1e-12)


@norms
@settings(deadline=None, max_examples=10)
@given(rows=size, time=size, source=size)
def test_decoder_layer_equals_torchs(norm: Any, rows: int, time: int, source: int) -> None:
    ours = randomized(DecoderLayer(WIDTH, HEADS, HIDDEN, "relu", norm, 0.0, 1e-5))
    theirs = nn.TransformerDecoderLayer(
        WIDTH, HEADS, HIDDEN, 0.0, "relu", norm_first=norm == "pre", batch_first=True
    ).double()
    layers(ours, theirs)
    positions = make_positions("none", width=WIDTH, heads=HEADS, window=9)
    memory, lengths, padding = padded(rows, source)
    x = torch.randn(rows, time, WIDTH, dtype=torch.float64)
    mask = torch.ones(time, time, dtype=torch.bool).triu(1)
    found = ours(x, memory, positions, 0, lengths_mask(lengths, source))
    expected = theirs(x, memory, tgt_mask=mask, memory_key_padding_mask=padding)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@norms
@settings(deadline=None, max_examples=10)
@given(rows=size, time=size, source=size)
def test_the_whole_equals_torchs_transformer(norm: Any, rows: int, time: int, source: int) -> None:
    ours = model(norm=norm, positions="none")
    shape: Any = (WIDTH, HEADS, HIDDEN, 0.0)
    how: Any = {"norm_first": norm == "pre", "batch_first": True}
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(*shape, **how),
        2,
        nn.LayerNorm(WIDTH),
        enable_nested_tensor=False,
    )
    theirs = nn.Transformer(WIDTH, HEADS, 2, 2, HIDDEN, 0.0, custom_encoder=encoder, **how).double()
    for mine, oracle in zip(
        [*ours.encoder, *ours.decoder],
        [*theirs.encoder.layers, *theirs.decoder.layers],
        strict=True,
    ):
        layers(mine, oracle)
    if norm == "pre":
        theirs.encoder.norm.load_state_dict(ours.encoder_norm.state_dict())
        theirs.decoder.norm.load_state_dict(ours.decoder_norm.state_dict())
    else:  # torch's class adds a norm that the paper's post-normalization does not have
        theirs.encoder.norm = theirs.decoder.norm = None  # type: ignore[assignment]
    _, lengths, padding = padded(rows, source)
    tokens, targets = torch.randint(11, (rows, source)), torch.randint(13, (rows, time))
    into, onto = ours.source_embedding(tokens) * 8**0.5, ours.target_embedding(targets) * 8**0.5
    mask = torch.ones(time, time, dtype=torch.bool).triu(1)
    expected = theirs(
        into, onto, tgt_mask=mask, src_key_padding_mask=padding, memory_key_padding_mask=padding
    )
    torch.testing.assert_close(ours(tokens, lengths, targets), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_batch_mates_never_change_an_answer(kind: str) -> None:
    made = model(positions=kind)
    source, lengths = torch.randint(11, (4, 9)), torch.tensor([3, 9, 1, 6])
    tokens = torch.randint(13, (4, 5))
    together = made(source, lengths, tokens)
    for row, length in enumerate(lengths.tolist()):
        alone = made(source[row : row + 1, :length], lengths[row : row + 1], tokens[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_decoder_ignores_the_future(kind: str) -> None:
    made = model(positions=kind)
    source, lengths = torch.randint(11, (2, 6)), torch.tensor([6, 4])
    tokens = torch.randint(13, (2, 7))
    changed = tokens.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % 13
    torch.testing.assert_close(
        made(source, lengths, changed)[:, :4],
        made(source, lengths, tokens)[:, :4],
        rtol=0,
        atol=1e-12,
    )


def test_a_scale_is_a_factor_of_the_queries() -> None:
    scaled, plain = model(scale=0.9), model()
    source, lengths, tokens = (
        torch.randint(11, (2, 6)),
        torch.tensor([6, 3]),
        torch.randint(13, (2, 5)),
    )
    assert not torch.allclose(
        scaled(source, lengths, tokens), plain(source, lengths, tokens), atol=1e-3
    )
    with torch.no_grad():
        for module in plain.modules():
            if isinstance(module, SelfAttention):
                for weight in module.query_key_value.parameters():
                    weight[:WIDTH] *= 0.9 * (WIDTH // HEADS) ** 0.5
            elif isinstance(module, CrossAttention):
                for weight in module.query.parameters():
                    weight *= 0.9 * (WIDTH // HEADS) ** 0.5
    torch.testing.assert_close(scaled(source, lengths, tokens), plain(source, lengths, tokens))


@pytest.mark.parametrize(
    ("kind", "scale"), [*((kind, None) for kind in KINDS), ("sinusoidal", 0.9)]
)
def test_cached_equals_uncached(kind: str, scale: float | None) -> None:
    made = model(positions=kind, window=70, scale=scale)
    source, lengths = torch.randint(11, (3, 6)), torch.tensor([6, 2, 5])
    tokens = torch.randint(13, (3, 69))  # more than a cache has room for at first
    stepper = Incremental(made, torch.float64)
    state, found = stepper.begin(source, lengths), []
    for token in tokens.T:
        logits, state = stepper.next(state, token)
        found.append(logits)
    expected = made.head(made(source, lengths, tokens))
    torch.testing.assert_close(torch.stack(found, 1), expected, rtol=1e-8, atol=1e-10)
    with pytest.raises(ValueError, match="window"):
        stepper.next(stepper.next(state, tokens[:, 0])[1], tokens[:, 0])


@settings(deadline=None, max_examples=20)
@given(st.lists(st.lists(st.integers(0, 100), min_size=1, max_size=6), min_size=1, max_size=4))
def test_reordered_rows_go_on_as_if_they_had_always_been_so(choices: list[list[int]]) -> None:
    made = model()
    source, lengths = torch.randint(11, (3, 6)), torch.tensor([6, 2, 5])
    stepper = Incremental(made, torch.float64)
    state = stepper.begin(source, lengths)
    owners, written = torch.arange(3), torch.randint(13, (3, 1))
    for choice in choices:
        _, state = stepper.next(state, written[:, -1])
        rows = torch.tensor(choice) % state.rows
        state = stepper.reorder(state, rows)
        owners, written = owners[rows], written[rows]
        written = torch.cat((written, torch.randint(13, (len(rows), 1))), 1)
    logits, _ = stepper.next(state, written[:, -1])
    expected = made.head(made(source[owners], lengths[owners], written)[:, -1])
    torch.testing.assert_close(logits, expected, rtol=1e-8, atol=1e-10)


def test_where_a_step_looks_is_the_last_layers_own() -> None:
    made = model()
    source, lengths = torch.randint(11, (3, 6)), torch.tensor([6, 2, 5])
    tokens = torch.randint(13, (3, 4))
    plain, stepper = Incremental(made, torch.float64), Attending(made, torch.float64)
    before, state = plain.begin(source, lengths), stepper.begin(source, lengths)
    rows = torch.tensor([0, 0, 1, 1, 2, 2])  # two rows of each source
    before, state = plain.reorder(before, rows), stepper.reorder(state, rows)
    for token in tokens[rows].T:
        same, before = plain.next(before, token)
        logits, state = stepper.next(state, token)
        assert torch.equal(logits, same)
    with looking() as looked:
        made(source, lengths, tokens)
    expected = looked[-1].weights(3)[:, :, -1].mean(1)[rows]  # (R, S)
    torch.testing.assert_close(stepper.attended(state), expected, rtol=1e-8, atol=1e-10)
    with pytest.raises(ValueError, match="next"):
        stepper.attended(stepper.begin(source, lengths))


def test_products_are_made_anew_once_weights_have_changed() -> None:
    made = model()
    first = with_products(made, torch.float64)
    assert with_products(made, torch.float64) is first
    with torch.no_grad():
        made.head.weight.add_(1.0)
    second = with_products(made, torch.float64)
    assert second is not first and with_products(made, torch.float32) is not second
    x = torch.randn(2, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(second.head(x), made.head(x))


def test_a_shared_vocabulary_is_one_matrix() -> None:
    made = model(source_vocabulary=13, shared=True)
    assert made.source_embedding.weight is made.target_embedding.weight is made.head.weight
    apart = model(tied=False)
    assert apart.head.weight is not apart.target_embedding.weight
    assert apart.source_embedding.weight is not apart.target_embedding.weight


def test_wrong_calls_say_what_is_expected() -> None:
    with pytest.raises(ValueError, match="divisible by heads"):
        model(width=9)
    with pytest.raises(ValueError, match="one vocabulary"):
        model(shared=True)
    with pytest.raises(ValueError, match="its window"):
        model(window=4)(
            torch.zeros(1, 5, dtype=torch.int64),
            torch.tensor([5]),
            torch.zeros(1, 1, dtype=torch.int64),
        )
