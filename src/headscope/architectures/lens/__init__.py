"""Models published as state dicts in TransformerLens' naming, as toys of ours that give the same logits.

The attention-only models of the literature are shipped in this form: `embed.W_E`, `blocks.0.attn.W_Q`, and
beside them a config or nothing. `read` opens such a file, `to_toy` builds the model; what neither the tensors
nor the config say is asked for, and what our architecture cannot do is refused by name.
"""

from headscope.architectures.lens.file import LensFile, read
from headscope.architectures.lens.settings import Setting, Stated
from headscope.architectures.lens.weights import to_toy

__all__ = ["LensFile", "Setting", "Stated", "read", "to_toy"]
