"""A toy gives the same logits however it is called: whole, in pieces, padded, cached, reloaded."""

import copy
import math

import pytest
import torch
from torch import tensor
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, StaticCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from headscope.architectures import ArchitectureError, ToyConfig, ToyForCausalLM, ToyModel
from headscope.architectures.activations import SoLU
from headscope.architectures.attention import mask_for, visible_keys
from headscope.architectures.positions import key_positions, positions_from_mask, rotate, sinusoidal, smear
from headscope.architectures.toy import ToyMLP

POSITIONS = ("learned", "sinusoidal", "rotary", "shortformer", "none")
NORMS = ("layernorm", "layernorm_no_weights", "rmsnorm", "none")
TOLERANCE = {"atol": 1e-6, "rtol": 1e-5}

every_kind = pytest.mark.parametrize(
    ("positions", "smeared", "norm"),
    [(positions, smeared, norm) for positions in POSITIONS for smeared in (False, True) for norm in NORMS],
)


def toy(positions="rotary", smeared=True, norm="layernorm", *, attention="sdpa", seed=0, **fields):
    """A small random model whose heads differ in everything that could be confused: sizes, gates, biases."""
    sizes = {"vocab_size": 23, "d_model": 12, "n_heads": 3, "d_head": 6, "n_ctx": 24, "d_mlp": 10}
    choices = {"positions": positions, "smeared_keys": smeared, "norm": norm, "attention_bias": True}
    torch.manual_seed(seed)
    model = ToyForCausalLM._from_config(ToyConfig(**(sizes | choices | fields)), attn_implementation=attention)
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", "alpha")):
            parameter.data.normal_()
    return model.eval()


def tokens(*shape, seed=1):
    return torch.randint(1, 23, shape, generator=torch.Generator().manual_seed(seed))


def left_padded(rows):
    """Rows of unequal length, as ids and mask with the padding on the left."""
    width = max(len(row) for row in rows)
    ids = torch.stack([torch.cat((torch.zeros(width - len(row), dtype=torch.long), row)) for row in rows])
    mask = torch.stack([(torch.arange(width) >= width - len(row)).long() for row in rows])
    return ids, mask


@every_kind
@torch.no_grad()
def test_cached_decoding_and_suffix_replay_equal_the_full_forward(positions, smeared, norm):
    model = toy(positions, smeared, norm)
    ids = tokens(2, 11)
    whole = model(ids).logits
    prefill = model(ids[:, :4], use_cache=True)
    cache = prefill.past_key_values
    replayed = model(ids[:, 4:8], past_key_values=cache).logits
    decoded = [model(ids[:, at : at + 1], past_key_values=cache).logits for at in range(8, 11)]
    assert_close(torch.cat((prefill.logits, replayed, *decoded), dim=1), whole, **TOLERANCE)
    cache.crop(-8)  # three tokens stay: a prefix shared by several suffixes, as a sweep uses it
    assert_close(model(ids[:, 3:], past_key_values=cache).logits, whole[:, 3:], **TOLERANCE)


@every_kind
@torch.no_grad()
def test_padding_on_either_side_changes_nothing_cached_or_not(positions, smeared, norm):
    model = toy(positions, smeared, norm)
    rows = [tokens(9), tokens(5, seed=2)]
    alone = [model(row[None]).logits[0] for row in rows]
    ids, mask = left_padded(rows)
    padded = model(ids, attention_mask=mask).logits
    right = model(ids.flip(1), attention_mask=mask.flip(1)).logits
    backwards = [model(row.flip(0)[None]).logits[0] for row in rows]
    for row, real in enumerate(mask.bool()):
        assert_close(padded[row, real], alone[row], **TOLERANCE)
        assert_close(right[row, real.flip(0)], backwards[row], **TOLERANCE)
    prefill = model(ids[:, :6], attention_mask=mask[:, :6], use_cache=True)
    rest = model(ids[:, 6:], attention_mask=mask, past_key_values=prefill.past_key_values).logits
    assert_close(rest, padded[:, 6:], **TOLERANCE)


@every_kind
@torch.no_grad()
def test_sdpa_equals_eager(positions, smeared, norm):
    model = toy(positions, smeared, norm)
    twin = ToyForCausalLM._from_config(copy.deepcopy(model.config), attn_implementation="eager").eval()
    twin.load_state_dict(model.state_dict())
    assert (model.config._attn_implementation, twin.config._attn_implementation) == ("sdpa", "eager")
    ids, mask = left_padded([tokens(9), tokens(5, seed=2)])
    real = mask.bool()
    ours, theirs = model(ids, attention_mask=mask).logits, twin(ids, attention_mask=mask).logits
    assert_close(ours[real], theirs[real], **TOLERANCE)
    assert torch.isfinite(ours).all()
    assert torch.isfinite(theirs).all()


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_left_padded_batch_generates_what_each_row_generates_alone(positions, attention):
    model = toy(positions, attention=attention)
    rows = [tokens(7), tokens(4, seed=2)]
    ids, mask = left_padded(rows)
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": 22}
    together = model.generate(ids, attention_mask=mask, **options)[:, 7:]
    for row, prompt in enumerate(rows):
        alone = model.generate(prompt[None], attention_mask=torch.ones(1, len(prompt)), **options)
        new = alone[0, len(prompt) :]
        assert together[row, : len(new)].tolist() == new.tolist()


@torch.no_grad()
def test_one_head_of_hand_written_weights():
    # Zero queries attend evenly, v and o copy, nothing is normed: the stream becomes x + mean(x so far).
    # Embeddings: token 0 -> (1, 0), token 1 -> (0, 1), so after 0 1 1: (0, 1) + (1/3, 2/3).
    model = ToyForCausalLM(ToyConfig(vocab_size=2, n_layers=1, d_model=2, n_heads=1, positions="none", norm="none"))
    for parameter in model.parameters():
        parameter.zero_()
    attention = model.model.layers[0].self_attn
    for matrix in (model.model.embed_tokens, attention.v_proj, attention.o_proj, model.lm_head):
        matrix.weight.copy_(torch.eye(2))
    logits = model(tensor([[0, 1, 1]])).logits
    assert_close(logits, tensor([[[2.0, 0.0], [0.5, 1.5], [1 / 3, 5 / 3]]]))
    loss = model(tensor([[0, 1, 1]]), labels=tensor([[0, 1, -100]])).loss
    assert_close(loss, tensor(math.log(math.exp(2) + 1)))  # token 1 after logits (2, 0); the -100 is left out


def test_smearing_by_hand():
    # Head 0 keeps 3/4 of a key, head 1 all of it; position 0 has nothing before it, even behind padding.
    keys = tensor([[4.0], [8.0], [0.0], [2.0]]).expand(1, 2, 4, 1)
    alpha = tensor([math.log(3.0), 100.0])
    places = key_positions(tensor([[0, 0, 1, 2]]), n_keys=4)
    smeared = smear(keys, alpha, places)
    assert_close(smeared[0, 0, :, 0], tensor([4.0, 8.0, 2.0, 1.5]))
    assert_close(smeared[0, 1], keys[0, 1])


def test_solu_by_hand():
    # softmax(0, ln 3) = (1/4, 3/4); a LayerNorm of two numbers makes them -1 and 1, whatever they are.
    before, third = tensor([[0.0, math.log(3.0)]]), 0.75 * math.log(3.0)
    plain = ToyConfig(d_mlp=2, activation="solu", norm="layernorm")
    assert_close(SoLU(plain)(before), tensor([[0.0, third]]))
    normed = SoLU(ToyConfig(d_mlp=2, activation="solu_ln", norm="layernorm"))
    normed.norm.weight.data, normed.norm.bias.data = tensor([2.0, 3.0]), tensor([0.5, 0.0])
    assert_close(normed(before), tensor([[-1.5, 3.0]]), atol=1e-3, rtol=0)
    unweighted = SoLU(ToyConfig(d_mlp=2, activation="solu_ln", norm="none", norm_eps=0.0))
    assert_close(unweighted(before), tensor([[-1.0, 1.0]]))
    assert list(unweighted.parameters()) == []


def test_a_gated_mlp_by_hand():
    """One dimension, one neuron: down 4 times silu(gate 3 x) times up 2 x."""
    mlp = ToyMLP(ToyConfig(d_model=1, n_heads=1, d_mlp=1, gated_mlp=True, activation="silu"))
    with torch.no_grad():
        for projection, weight in ((mlp.up_proj, 2.0), (mlp.gate_proj, 3.0), (mlp.down_proj, 4.0)):
            projection.weight.fill_(weight)
    x = torch.tensor([[0.5]])
    assert_close(mlp(x), torch.tensor([[4 * 1.5 / (1 + math.exp(-1.5)) * 1.0]]))
    assert ToyMLP(ToyConfig(d_mlp=8)).gate_proj is None


def test_rotated_products_depend_on_distance_alone():
    query, key = torch.randn(1, 1, 1, 6), torch.randn(1, 1, 1, 6)

    def product(at_query, at_key):
        at = tensor([[at_query]]), tensor([[at_key]])
        return (rotate(query, at[0], 10_000.0) * rotate(key, at[1], 10_000.0)).sum()

    assert_close(product(7, 4), product(3, 0))
    assert abs(product(7, 4) - product(7, 5)) > 1e-3
    # A pair (i, i + half) turns by the position: (1, 0) at position 1 becomes (cos 1, sin 1).
    turned = rotate(tensor([[[[1.0, 0.0]]]]), tensor([[1]]), 10_000.0)
    assert_close(turned.flatten(), tensor([math.cos(1), math.sin(1)]))


def test_sinusoidal_positions_by_hand():
    # Entries: sin p, cos p, sin p/100, cos p/100 (10000^(2/4) = 100).
    expected = tensor([math.sin(3), math.cos(3), math.sin(0.03), math.cos(0.03)])
    assert_close(sinusoidal(tensor([[3]]), 4)[0, 0], expected)


@torch.no_grad()
def test_where_each_scheme_puts_positions():
    ids, there = tokens(1, 6), torch.arange(6)[None]
    for positions, shift_matters in [("rotary", False), ("none", False), ("learned", True), ("shortformer", True)]:
        model = toy(positions, smeared=False)
        moved = model(ids, position_ids=there + 7).logits - model(ids, position_ids=there).logits
        assert (moved.abs().max() > 1e-3) == shift_matters
    assert (toy("rotary")(ids).logits - toy("none")(ids).logits).abs().max() > 1e-3
    # Sinusoidal positions are learned ones whose table is fixed.
    fixed, learned = toy("sinusoidal"), toy("learned")
    learned.load_state_dict(fixed.state_dict(), strict=False)
    learned.model.embed_positions.weight.copy_(sinusoidal(torch.arange(24), 12))
    assert_close(fixed(ids).logits, learned(ids).logits, **TOLERANCE)


@torch.no_grad()
def test_the_stream_is_the_sum_of_what_was_added():
    # In shortformer, moreover, values see no positions: only the patterns change when the tokens move.
    model, added, values = toy("shortformer", attention="eager"), [], []
    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(lambda module, args, out: added.append(out[0]))
        layer.mlp.register_forward_hook(lambda module, args, out: added.append(out))
        layer.self_attn.v_proj.register_forward_hook(lambda module, args, out: values.append(out))
    ids = tokens(1, 6)
    model.model.norm = torch.nn.Identity()
    out = model(ids, output_hidden_states=True)
    assert_close(out.hidden_states[2], model.model.embed_tokens(ids) + sum(added), **TOLERANCE)
    model(ids, position_ids=torch.arange(6)[None] + 9)
    assert_close(values[0], values[2])
    assert (values[1] - values[3]).abs().max() > 1e-4


def test_position_ids_count_real_tokens():
    assert positions_from_mask(tensor([[0, 1, 1, 1]]), n_queries=2, n_past=2).tolist() == [[1, 2]]
    assert positions_from_mask(None, n_queries=2, n_past=3).tolist() == [[3, 4]]
    # Two cached keys stand just before the first query, at position 5.
    assert key_positions(tensor([[5, 6]]), n_keys=4).tolist() == [[3, 4, 5, 6]]


def test_masks_take_the_form_that_an_implementation_expects():
    like, padded = torch.zeros(1), tensor([[0, 1, 1]])
    assert mask_for("sdpa", 3, 3, None, like) is None
    assert mask_for("sdpa", 3, 3, torch.ones(1, 3), like) is None
    assert mask_for("sdpa", 1, 3, None, like) is None
    assert mask_for("sdpa", 2, 3, None, like).tolist() == [[[[True, True, False], [True, True, True]]]]
    # The padding's own query sees itself, so that its row is a distribution; nobody else sees padding.
    visible = visible_keys(3, 3, padded, torch.device("cpu"))
    assert visible.int().tolist() == [[[[1, 0, 0], [0, 1, 0], [0, 1, 1]]]]
    added = mask_for("eager", 3, 3, padded, like)
    assert_close(added == 0, visible)
    assert added.min() == torch.finfo(torch.float32).min


@torch.no_grad()
def test_patterns_are_causal_and_sum_to_one():
    model = toy(attention="eager")
    out = model(tokens(2, 7), output_attentions=True, output_hidden_states=True)
    for pattern in out.attentions:
        assert pattern.shape == (2, 3, 7, 7)
        assert_close(pattern.sum(-1), torch.ones(2, 3, 7))
        assert pattern.triu(1).abs().max() == 0
    assert len(out.hidden_states) == 3
    assert_close(model.lm_head(out.hidden_states[-1]), out.logits)


@torch.no_grad()
def test_attention_goes_through_the_interface_of_transformers(monkeypatch):
    # Whoever replaces the interface must see this model: scale, dropout and absolute positions included.
    model, seen = toy(), []
    original = type(ALL_ATTENTION_FUNCTIONS).get_interface

    def watched(self, name, default):
        function = original(self, name, default)

        def call(module, query, key, value, mask, **kwargs):
            seen.append((module.layer_idx, name, query.shape, key.shape, kwargs))
            return function(module, query, key, value, mask, **kwargs)

        return call

    monkeypatch.setattr(type(ALL_ATTENTION_FUNCTIONS), "get_interface", watched)
    cache = model(tokens(1, 4), use_cache=True).past_key_values
    model(tokens(1, 2), past_key_values=cache)
    assert [(layer, name) for layer, name, *_ in seen] == [(0, "sdpa"), (1, "sdpa")] * 2
    *_, query, key, kwargs = seen[-1]
    assert (query, key) == ((1, 3, 2, 6), (1, 3, 6, 6))
    assert kwargs["scaling"] == pytest.approx(6**-0.5)
    assert kwargs["dropout"] == 0.0
    assert kwargs["position_ids"].tolist() == [[4, 5]]


@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_saving_and_loading_keeps_the_model(tmp_path, tied):
    model = toy(
        "learned", tie_word_embeddings=tied, unembed_bias=True, mlp_bias=True, gated_mlp=True, rope_theta=50.0
    )
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert type(loaded) is ToyForCausalLM
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    assert_close(loaded(tokens(2, 6)).logits, model(tokens(2, 6)).logits, atol=0, rtol=0)
    assert AutoConfig.from_pretrained(tmp_path).rope_theta == 50.0
    base = AutoModel.from_pretrained(tmp_path, dtype=torch.float32)
    assert type(base) is ToyModel
    assert_close(base(tokens(2, 6)).last_hidden_state, model.model(tokens(2, 6)).last_hidden_state, atol=0, rtol=0)


@torch.no_grad()
def test_other_ways_to_call_it():
    model, ids = toy(), tokens(2, 6)
    logits = model(ids).logits
    assert_close(model(inputs_embeds=model.get_input_embeddings()(ids)).logits, logits)
    assert_close(model(ids, logits_to_keep=2).logits, logits[:, -2:], **TOLERANCE)
    assert_close(model(ids, logits_to_keep=tensor([0, 3])).logits, logits[:, [0, 3]], **TOLERANCE)
    assert_close(model(ids, return_dict=False)[0], logits)
    stream = model.model.embed_tokens(ids)
    for layer in model.model.layers:
        stream = layer(stream, position_ids=torch.arange(6)[None])
    assert_close(model.lm_head(model.model.norm(stream)), logits, **TOLERANCE)


def test_the_gate_starts_half_open_and_attention_only_models_have_no_mlp():
    model = ToyForCausalLM(ToyConfig(smeared_keys=True, norm="none", positions="none"))
    names = [name for name, _ in model.named_parameters()]
    assert_close(model.model.layers[0].self_attn.alpha.detach(), torch.zeros(4))
    assert sorted({name.split(".")[-2] for name in names}) == [
        *("embed_tokens", "k_proj", "lm_head", "o_proj", "q_proj", "self_attn", "v_proj")
    ]


def test_a_config_answers_to_the_names_that_generic_tools_use():
    config = ToyConfig(d_model=12, n_heads=3, n_layers=5, n_ctx=7)
    assert (config.hidden_size, config.num_attention_heads, config.head_dim) == (12, 3, 4)
    assert (config.num_hidden_layers, config.max_position_embeddings) == (5, 7)
    assert config == ToyConfig.from_dict(config.to_dict())
    assert config != ToyConfig(d_model=12, n_heads=3, n_layers=4, n_ctx=7)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"positions": "alibi"}, "positions='alibi'"),
        ({"norm": "batch"}, "norm='batch'"),
        ({"d_model": 10, "n_heads": 4}, "d_model=10"),
        ({"positions": "rotary", "d_head": 3}, "d_head=3"),
        ({"positions": "sinusoidal", "d_model": 5, "n_heads": 1}, "d_model=5"),
    ],
)
def test_a_config_that_cannot_be_built_says_why(fields, said):
    with pytest.raises(ArchitectureError, match=said):
        ToyConfig(**fields)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda model: {}, "got neither"),
        (lambda model: {"input_ids": tokens(1, 3), "inputs_embeds": torch.zeros(1, 3, 12)}, "got both"),
        (lambda model: {"input_ids": tokens(1, 3), "output_attentions": True}, "eager"),
        (lambda model: {"input_ids": tokens(1, 25)}, "position 24"),
        (lambda model: {"input_ids": tokens(1, 3), "attention_mask": torch.ones(1, 2)}, r"\[batch, 3\]"),
        (lambda model: {"input_ids": tokens(1, 3), "attention_mask": tensor([[1, 0, 1]])}, "between real"),
        (lambda model: {"input_ids": tokens(1, 3), "labels": tokens(1, 3), "logits_to_keep": 1}, "logits_to_keep"),
        (
            lambda model: {
                "input_ids": tokens(1, 3),
                "past_key_values": StaticCache(config=model.config, max_cache_len=8),
            },
            "StaticCache",
        ),
    ],
)
def test_input_that_would_be_answered_wrongly_is_refused(given, said):
    model = toy("learned")
    with pytest.raises(ArchitectureError, match=said):
        model(**given(model))
