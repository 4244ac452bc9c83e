"""The shape of a toy transformer: everything that the literature on small models has varied.

In: sizes and choices, by keyword. Out: a `ToyConfig`, which is an ordinary Hugging Face config, so that
`AutoModelForCausalLM.from_config` and `from_pretrained` work on it. One set of fields covers three uses:
circuits written by hand (no norms, exact sizes), the published attention-only models (Elhage et al. 2021,
"A Mathematical Framework for Transformer Circuits"; Olsson et al. 2022) and the models trained here.

Left out on purpose: grouped-query attention, sliding windows, gated attention, dropout. Real families have them,
and those are opened as they are; a toy is for seeing one thing at a time.
"""

from typing import Any, ClassVar, Literal, get_args

from transformers import PretrainedConfig

from headscope.errors import HeadscopeError

PositionScheme = Literal["learned", "sinusoidal", "rotary", "shortformer", "none"]
"""How a token knows where it stands.

- `learned`: a trained vector per position, added to the token embedding (GPT-2).
- `sinusoidal`: the same with fixed sines and cosines (Vaswani et al. 2017, section 3.5).
- `rotary`: queries and keys are turned by an angle that grows with the position (Su et al. 2021).
- `shortformer`: a trained vector per position, added to the input of queries and keys only, so that the
  residual stream and the values never carry positions (Press et al. 2021).
- `none`: nothing but the causal mask.
"""

Norm = Literal["layernorm", "layernorm_no_weights", "rmsnorm", "none"]
"""What is done to the residual stream before it is read.

`layernorm_no_weights` centres and scales without trained weights, as weights are folded in many published
small models; `none` reads the residual stream as it is, which makes a hand-written circuit exact.
"""


class ArchitectureError(HeadscopeError):
    """A toy transformer that cannot be built, or cannot be run on this input."""


class ToyConfig(PretrainedConfig):  # type: ignore[misc]
    """Sizes and choices of a toy transformer.

    - `d_head` is free of `d_model`; without it, `d_model // n_heads`.
    - `d_mlp=0` means attention only.
    - `positions`: see `PositionScheme`; `norm`: see `Norm`. `final_norm=False` leaves out the norm before
      the unembedding.
    - `smeared_keys`: each head mixes every key with the one before it, in a learnt proportion.
    - `attention_bias` puts a bias on q, k, v and o; `mlp_bias` and `unembed_bias` as their names say.
    - `activation` is any name that transformers knows ("gelu", "relu", "silu", ...), or "solu" or "solu_ln"
      (see `activations`); with `gated_mlp` it acts on a gate that the MLP's inner values are multiplied with.

    Raises:
        ArchitectureError: for an unknown choice or sizes that do not fit together.
    """

    model_type = "headscope_toy"
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "num_key_value_heads": "n_heads",
        "head_dim": "d_head",
        "intermediate_size": "d_mlp",
        "max_position_embeddings": "n_ctx",
        "hidden_act": "activation",
    }

    def __init__(
        self,
        *,
        vocab_size: int = 128,
        n_layers: int = 2,
        d_model: int = 64,
        n_heads: int = 4,
        d_head: int | None = None,
        d_mlp: int = 0,
        n_ctx: int = 128,
        positions: PositionScheme = "shortformer",
        norm: Norm = "layernorm",
        final_norm: bool = True,
        attention_bias: bool = False,
        mlp_bias: bool = False,
        unembed_bias: bool = False,
        activation: str = "gelu",
        gated_mlp: bool = False,
        smeared_keys: bool = False,
        tie_word_embeddings: bool = False,
        norm_eps: float = 1e-5,
        rope_theta: float = 10_000.0,
        bos_token_id: int | None = 0,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.n_layers = n_layers
        self.d_model = d_model
        self.n_heads = n_heads
        self.d_head = d_model // n_heads if d_head is None else d_head
        self.d_mlp = d_mlp
        self.n_ctx = n_ctx
        self.positions = positions
        self.norm = norm
        self.final_norm = final_norm
        self.attention_bias = attention_bias
        self.mlp_bias = mlp_bias
        self.unembed_bias = unembed_bias
        self.activation = activation
        self.gated_mlp = gated_mlp
        self.smeared_keys = smeared_keys
        self.norm_eps = norm_eps
        self.rope_theta = rope_theta
        _check_fit(self, d_head_given=d_head is not None)
        super().__init__(**kwargs)
        # Releases of transformers differ in whether the base class sets these two: here we do, after it.
        self.tie_word_embeddings = tie_word_embeddings
        self.bos_token_id = bos_token_id

    def choices(self) -> dict[str, Any]:
        """What differs from the defaults, without the bookkeeping of transformers."""
        bookkeeping = ("transformers_version", "architectures", "dtype", "model_type")
        return {name: value for name, value in self.to_diff_dict().items() if name not in bookkeeping}

    def __eq__(self, other: object) -> bool:
        """Equal configs say the same; the base class compares only the fields that it declares itself."""
        return isinstance(other, ToyConfig) and bool(self.to_dict() == other.to_dict())

    __hash__ = None  # type: ignore[assignment]  # configs can be changed in place


def _check_fit(config: ToyConfig, *, d_head_given: bool) -> None:
    for field, known in (("positions", PositionScheme), ("norm", Norm)):
        choice = getattr(config, field)
        if choice not in get_args(known):
            raise ArchitectureError(
                f"cannot build a toy transformer with {field}={choice!r}: "
                f"expected one of {', '.join(get_args(known))}."
            )
    if not d_head_given and config.d_model % config.n_heads:
        raise ArchitectureError(
            f"cannot divide d_model={config.d_model} among n_heads={config.n_heads}: "
            "pass d_head, which need not be their quotient."
        )
    if config.positions == "rotary" and config.d_head % 2:
        raise ArchitectureError(
            f"cannot rotate heads of d_head={config.d_head}: rotary positions turn pairs of dimensions, "
            "so pass an even d_head."
        )
    if config.positions == "sinusoidal" and config.d_model % 2:
        raise ArchitectureError(
            f"cannot lay out sinusoidal positions over d_model={config.d_model}: pass an even d_model."
        )
