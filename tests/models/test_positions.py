"""Each position scheme against its formula or another library, and what it promises about shifts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.models.attention import attention_weights, looking
from fourfold.models.positions import KINDS, Shaw, make_positions
from fourfold.models.transformer import Transformer

RELATIVE = ("rotary", "shaw", "t5", "alibi")
WAVES = ("sinusoidal", "sinusoidal_halves", "sines", "circular")


def made(kind: str, **options: object):  # noqa: ANN201
    torch.manual_seed(0)
    sizes: dict = {"width": 16, "heads": 4, "window": 40}
    return make_positions(kind, **{**sizes, **options}).double()


def added(kind: str, **options: object) -> torch.Tensor:
    """What a scheme adds to embeddings of zero: (P, W)."""
    window = int(options.get("window", 40))  # type: ignore[call-overload]
    width = int(options.get("width", 16))  # type: ignore[call-overload]
    return made(kind, **options).add(torch.zeros(1, window, width, dtype=torch.float64))[0]


@pytest.mark.parametrize("base", [10_000.0, 30.0])
def test_waves_by_their_formulas(base: float) -> None:
    tables = {kind: added(kind, base=base) for kind in ("sinusoidal", "sinusoidal_halves", "sines")}
    for place in (0, 1, 7, 39):
        for i in range(8):
            angle = place / base ** (2 * i / 16)
            for kind, columns in (
                ("sinusoidal", (2 * i, 2 * i + 1)),
                ("sinusoidal_halves", (i, i + 8)),
            ):
                sine, cosine = (float(tables[kind][place, c]) for c in columns)
                assert sine == pytest.approx(math.sin(angle), abs=1e-6)
                assert cosine == pytest.approx(math.cos(angle), abs=1e-6)
        for i in range(16):
            wanted = math.sin(place / base ** (i / 16))
            assert float(tables["sines"][place, i]) == pytest.approx(wanted, abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 20), st.integers(0, 19), st.sampled_from([10_000.0, 100.0, 7.0]))
def test_a_later_sinusoid_is_a_fixed_rotation_of_an_earlier_one(
    place: int, later: int, base: float
) -> None:
    """The same block-diagonal matrix takes the vector of every place to that of place + k."""
    table = added("sinusoidal", base=base)
    turns = base ** -(torch.arange(0, 16, 2, dtype=torch.float64) / 16)
    cos, sin = (later * turns).cos(), (later * turns).sin()
    sine, cosine = table[place, 0::2], table[place, 1::2]
    moved = torch.stack((sine * cos + cosine * sin, cosine * cos - sine * sin), dim=-1).flatten()
    torch.testing.assert_close(moved, table[place + later], rtol=0, atol=1e-5)


def test_circular_positions_lie_on_a_circle() -> None:
    window = 40
    table = added("circular", window=window)
    near = (table - table.roll(1, 0)).norm(dim=-1)  # the last is as near the first as any neighbour
    torch.testing.assert_close(near, near[:1].expand(window), rtol=1e-5, atol=0)
    assert len({tuple(row) for row in table.mul(1e4).round().tolist()}) == window
    waves = added("sinusoidal", window=window)
    assert (waves - waves.roll(1, 0)).norm(dim=-1)[0] > 1.5 * near[0]


def test_random_and_learned_vectors_have_the_waves_size() -> None:
    for kind in (*WAVES, "random", "learned"):
        table = added(kind, window=400, width=64, amplitude=0.3).detach()
        close = 0.2 if kind == "sines" else 0.02  # long waves alone begin at zero
        assert float(table.square().mean().sqrt()) == pytest.approx(0.3, rel=close), kind
    torch.testing.assert_close(added("random", seed=3), added("random", seed=3), rtol=0, atol=0)
    assert not torch.equal(added("random", seed=3), added("random", seed=4))
    assert [n for n, _ in made("learned").named_parameters()] == ["table.weight"]
    assert not list(made("random").parameters()) and "weight" in made("random").state_dict()


@pytest.mark.parametrize("kind", RELATIVE)
@settings(deadline=None, max_examples=8)
@given(first=st.integers(0, 30))
def test_relative_schemes_do_not_change_under_a_shift(kind: str, first: int) -> None:
    scheme = made(kind, window=64)
    q, k = torch.randn(2, 2, 10, 4, 4, dtype=torch.float64).unbind()  # (B, T, H, D)

    def weights(places: torch.Tensor) -> torch.Tensor:
        turned = scheme.turn(q, places), scheme.turn(k, places)
        return attention_weights(*turned, bias=scheme.bias(places, places, turned[0]))

    here = torch.arange(10)
    torch.testing.assert_close(weights(here + first), weights(here), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(weights(here * 2), weights(here), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_places_of_each_row_are_its_own(kind: str) -> None:
    """Places given row by row do what the same places do for all rows."""
    scheme = made(kind)
    places = torch.tensor([[0, 1, 2, 3], [7, 8, 3, 5]])
    x, q = torch.randn(2, 4, 16).double(), torch.randn(2, 4, 4, 4).double()
    for row in range(2):
        alone, whole = scheme.add(x[row : row + 1], places[row]), scheme.add(x, places)
        torch.testing.assert_close(whole[row], alone[0])
        turned = scheme.turn(q, places)
        torch.testing.assert_close(turned[row], scheme.turn(q[row : row + 1], places[row])[0])
        bias = scheme.bias(places, places, turned)
        if bias is not None:
            one = scheme.bias(places[row], places[row], turned[row : row + 1])
            torch.testing.assert_close(bias[row], one[0])


def test_shaw_by_its_formula() -> None:
    """e_ij = q_i (k_j + a_ij^K) / sqrt(d), z_i = sum_j alpha_ij (v_j + a_ij^V), distances clipped."""
    scheme = made("shaw", layers=2, farthest=3)
    assert isinstance(scheme, Shaw)
    torch.nn.init.normal_(scheme.keys), torch.nn.init.normal_(scheme.values)
    q, k, v = torch.randn(3, 1, 4, 9, 4, dtype=torch.float64).unbind()
    found = scheme.attend(q, k, v, layer=1)
    for head in range(4):
        for i in range(9):
            scores, values = [], []
            for j in range(i + 1):
                number = max(-3, min(3, j - i)) + 3
                scores.append(q[0, head, i] @ (k[0, head, j] + scheme.keys[1, number]) / 2)
                values.append(v[0, head, j] + scheme.values[1, number])
            wanted = torch.stack(scores).softmax(0) @ torch.stack(values)
            torch.testing.assert_close(found[0, head, i], wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_what_every_scheme_compares_can_be_looked_at(kind: str) -> None:
    scheme, keep = made(kind), torch.tensor([[[[True] * 5 + [False]]]])
    q, k, v = torch.randn(3, 1, 4, 6, 4, dtype=torch.float64).unbind()
    with looking() as looked:
        scheme.attend(q, k, v, causal=False, keep=keep)
    (call,) = looked
    places = torch.arange(6)
    bias = scheme.bias(places, places, q)
    wanted = attention_weights(q, k, causal=False, keep=keep, bias=bias)
    torch.testing.assert_close(call.weights(), wanted.float())


@pytest.mark.parametrize("causal", [True, False])
def test_t5_equals_transformers(causal: bool) -> None:
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    from transformers import T5Config

    config = T5Config(num_heads=4, d_model=16, is_decoder=causal)
    theirs = t5.T5Attention(config, has_relative_attention_bias=True).double()
    ours = made("t5", causal=causal)
    with torch.no_grad():
        ours.table.weight.copy_(theirs.relative_attention_bias.weight)
    places = torch.arange(300)
    oracle = theirs.compute_bias(300, 300)
    torch.testing.assert_close(ours.bias(places, places), oracle, rtol=0, atol=0)


@pytest.mark.parametrize("heads", [1, 2, 4, 8, 12, 16, 20])
def test_alibi_equals_transformers(heads: int) -> None:
    bloom = pytest.importorskip("transformers.models.bloom.modeling_bloom")
    alibi = bloom.build_alibi_tensor(torch.ones(1, 9), heads, torch.float32)  # (H, 1, S)
    places = torch.arange(9)
    ours = make_positions("alibi", width=4 * heads, heads=heads, window=9).bias(places, places)
    # theirs grows along the keys from the first on; the softmax does not see the difference
    last = ours[0, :, -1]
    torch.testing.assert_close(last - last[:, :1], alibi[:, 0] - alibi[:, 0, :1])
    torch.testing.assert_close(ours[0], ours[0].mT)  # an encoder looks both ways alike


def test_rotary_equals_transformers() -> None:
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    from transformers import LlamaConfig

    config = LlamaConfig(hidden_size=32, num_attention_heads=4, max_position_embeddings=64)
    q = torch.randn(2, 4, 50, 8)
    cos, sin = llama.LlamaRotaryEmbedding(config)(q, torch.arange(50)[None])
    oracle, _ = llama.apply_rotary_pos_emb(q, q, cos, sin)
    found = make_positions("rotary", width=32, heads=4, window=64).turn(q.transpose(1, 2))
    torch.testing.assert_close(found, oracle, rtol=1e-5, atol=1e-5)


def test_tables_survive_a_model_that_was_made_without_memory() -> None:
    for kind in KINDS:
        torch.manual_seed(0)
        real = Transformer(11, 16, 1, 4, window=8, positions=kind)
        with torch.device("meta"):
            empty = Transformer(11, 16, 1, 4, window=8, positions=kind)
        empty.load_state_dict(real.state_dict(), assign=True)
        empty.head.weight = empty.embedding.weight
        empty.reset_positions()
        tokens = torch.randint(11, (2, 8))
        torch.testing.assert_close(empty(tokens), real(tokens), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"kind": "rotari"}, 'no kind "rotari".*rotary'),
        ({"kind": "sinusoidal", "width": 15}, "even number"),
        ({"kind": "rotary", "head_dim": 5}, "even number"),
        (
            {"kind": "alibi", "scaling": {"rope_type": "linear", "factor": 2}},
            "rotary positions only",
        ),
        (
            {"kind": "rotary", "scaling": {"rope_type": "yarn", "factor": 2}},
            "yarn.*expected one of",
        ),
        ({"kind": "rotary", "scaling": {"rope_type": "llama3", "factor": 2}}, "has no 'low_freq"),
    ],
)
def test_what_does_not_exist_is_refused(wrong: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        made(**wrong)
