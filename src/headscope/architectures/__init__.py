"""Small transformers as Hugging Face models: attention-only, smeared keys, five position schemes.

Importing this package registers the model type "headscope_toy", after which `AutoConfig`,
`AutoModel` and `AutoModelForCausalLM` load and build it like any other.

>>> from transformers import AutoModelForCausalLM
>>> model = AutoModelForCausalLM.from_config(ToyConfig(n_layers=1, d_model=8, n_heads=2))
>>> type(model).__name__
'ToyForCausalLM'
"""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from headscope.architectures.config import ArchitectureError, Norm, PositionScheme, ToyConfig
from headscope.architectures.toy import ToyForCausalLM, ToyModel

__all__ = ["ArchitectureError", "Norm", "PositionScheme", "ToyConfig", "ToyForCausalLM", "ToyModel"]

AutoConfig.register(ToyConfig.model_type, ToyConfig, exist_ok=True)
AutoModel.register(ToyConfig, ToyModel, exist_ok=True)
AutoModelForCausalLM.register(ToyConfig, ToyForCausalLM, exist_ok=True)
