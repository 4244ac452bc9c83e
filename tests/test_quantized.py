"""Models quantised by bitsandbytes and optimum-quanto: what is served is right on the object as it computes.

The references are plain hooks on the same object, and weights unpacked by the package that packed them.
"""

import logging
import sys
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, QuantoConfig

import headscope as hs
from headscope.errors import UnservedModel, UnservedSite
from tests import tiny
from tests.test_command import run
from tests.test_loading import refused

HEAD_DIM = 16


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The folder of a Llama whose widths are whole blocks of 64, as 4 bits ask for."""
    path = tmp_path_factory.mktemp("models") / "plain"
    tiny.FAMILIES["blocks"] = lambda: LlamaConfig(
        **{**tiny.COMMON, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}, num_key_value_heads=2
    )
    tiny.build("blocks").save_pretrained(path)
    del tiny.FAMILIES["blocks"]
    return path


def by_bitsandbytes(plain, **options):
    pytest.importorskip("bitsandbytes", reason="needs the package bitsandbytes")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # a line for every product
    config = BitsAndBytesConfig(**options)
    return AutoModelForCausalLM.from_pretrained(plain, quantization_config=config, dtype=torch.float32)


def by_quanto(plain, kind):
    quanto = pytest.importorskip("optimum.quanto", reason="needs the package optimum-quanto")
    # What it compiles for a minute at the first use of 4 bits, in torch.
    import_module("optimum.quanto.library.extensions.cpp").ext._lib = SimpleNamespace(
        unpack=lambda packed, bits: torch.cat([packed >> start & 2**bits - 1 for start in range(0, 8, bits)])
    )
    hf = AutoModelForCausalLM.from_pretrained(plain)
    quanto.quantize(hf, weights=getattr(quanto, kind))
    quanto.freeze(hf)
    return hf


def by_configuration(plain):
    pytest.importorskip("optimum.quanto", reason="needs the package optimum-quanto")
    return AutoModelForCausalLM.from_pretrained(plain, quantization_config=QuantoConfig(weights="int8"))


MADE = {
    "bitsandbytes, 8 bits": lambda plain: by_bitsandbytes(plain, load_in_8bit=True, llm_int8_threshold=0.0),
    "bitsandbytes, 4 bits": lambda plain: by_bitsandbytes(plain, load_in_4bit=True),
    "bitsandbytes, 4 bits twice": lambda plain: by_bitsandbytes(
        plain, load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    ),
    "quanto, 8 bits": lambda plain: by_quanto(plain, "qint8"),
    "quanto, 4 bits": lambda plain: by_quanto(plain, "qint4"),
    "quanto, by configuration": by_configuration,
}
# Their products are rounded, so that heads do not sum to what is projected; on some machines those of 4 bits are not.
ROUNDED = [name for name in MADE if "bitsandbytes" in name]


def unpacked(projection):
    """The weights of a packed projection, [out, in], by the package that packed them, before it has run."""
    weight = projection.weight
    if hasattr(weight, "SCB"):
        return weight.data * weight.SCB[:, None] / 127
    if hasattr(weight, "quant_state"):
        return sys.modules["bitsandbytes"].functional.dequantize_4bit(weight, weight.quant_state)
    return weight.dequantize()


@pytest.mark.parametrize("name", MADE)
def test_what_is_served_is_right(plain, name):
    hf = MADE[name](plain).eval()
    projection = hf.model.layers[1].self_attn.o_proj
    known = unpacked(projection).detach().float()  # before it runs: running repacks it
    model = hs.load(hf)
    failing = {check.name for check in model.certificate.checks if check.passed is False}
    assert failing <= ({"heads_sum"} if name in ROUNDED else set())
    assert all(check.made for check in model.certificate.checks if check.passed is not None)
    for head in model.heads:

        def cut(module, args, head=head):
            silenced = args[0].clone()
            silenced[..., head.index * HEAD_DIM : (head.index + 1) * HEAD_DIM] = 0
            return (silenced,)

        got = model.run(tiny.ids(), interventions=hs.zero(head)).logits
        with torch.no_grad(), hf.model.layers[head.layer].self_attn.o_proj.register_forward_pre_hook(cut):
            assert torch.equal(got, hf(tiny.ids(), use_cache=False).logits)
    rounding = 1e-2 if name in ROUNDED else 1e-6
    w_o = model.head_weights(1).w_o.flatten(0, 1).T
    assert_close(w_o, known, atol=rounding * float(known.abs().max()), rtol=0)
    assert type(model.unembedding_matrix()) in (torch.Tensor, torch.nn.Parameter)
    assert len(hs.sweep(model, tiny.ids(), hs.grid(hs.zero("z"), layers="all", heads="all"), hs.measures.loss())) == 8
    assert model.identity == hs.load(hf).identity


@pytest.mark.parametrize("name", MADE)
def test_scales_are_part_of_the_identity(plain, name):
    model = hs.load(MADE[name](plain))
    before = model.identity
    weight = model.hf.model.layers[0].mlp.up_proj.weight
    with torch.no_grad():
        if hasattr(weight, "quant_state"):
            weight.quant_state.absmax *= 2
        elif hasattr(weight, "_scale"):
            weight._scale *= 2
        else:
            model.hf.model.layers[0].mlp.up_proj.state.SCB *= 2
    model.clear_cache()
    assert model.identity != before


def test_outliers_of_8_bits_make_tokens_depend_on_later_ones(plain):
    # Columns with an outlier in any row are multiplied in full: what one token holds decides how others are rounded.
    model = hs.load(by_bitsandbytes(plain, load_in_8bit=True))
    made = {check.name: check for check in model.certificate.checks}
    assert made["is_causal"].passed is False
    with pytest.raises(UnservedSite, match="next-token loss"):
        hs.sweep(model, tiny.ids(), hs.grid(hs.zero("1.0")), hs.measures.loss())


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_an_adapter_on_a_quantised_base(plain):
    peft = pytest.importorskip("peft", reason="needs the package peft")
    base = by_bitsandbytes(plain, load_in_8bit=True, llm_int8_threshold=0.0)
    known = unpacked(base.model.layers[1].self_attn.o_proj)
    wrapped = peft.get_peft_model(
        base, peft.LoraConfig(r=4, target_modules=["o_proj"], init_lora_weights=False)
    ).eval()
    model = hs.load(wrapped)
    with torch.no_grad():
        assert torch.equal(model.run(tiny.ids()).logits, wrapped(tiny.ids(), use_cache=False).logits)
    adapter = model.hf.model.layers[1].self_attn.o_proj
    added = adapter.lora_B["default"].weight @ adapter.lora_A["default"].weight * adapter.scaling["default"]
    w_o = model.head_weights(1).w_o.flatten(0, 1).T
    assert_close(w_o, (known + added).detach(), atol=1e-2 * float(known.abs().max()), rtol=0)


def test_a_quantised_folder_opens_and_the_command_says_nothing_else(plain, tmp_path):
    by_bitsandbytes(plain, load_in_8bit=True, llm_int8_threshold=0.0).save_pretrained(tmp_path)
    shown = run("check", str(tmp_path), "--json", "--quiet")
    assert shown.exit_code == 0
    assert shown.stderr == ""


def test_a_quantised_folder_without_its_package(plain, tmp_path, monkeypatch):
    by_bitsandbytes(plain, load_in_8bit=True).save_pretrained(tmp_path)
    monkeypatch.setattr("transformers.quantizers.quantizer_bnb_8bit.is_bitsandbytes_available", lambda *_: False)
    refused(UnservedModel, r"headscope\[quantized\]", tmp_path)
