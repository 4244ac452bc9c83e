"""The papers whose claims studies put to the test: named once, with author, year and link."""

from headscope.results.study import Source

REDUNDANT_HEADS = Source(
    "Redundant Attention Heads in Large Language Models For In Context Learning",
    "skunnavakkam",
    2024,
    "https://skunnavakkam.github.io/blog/degenerate-attention-heads-in-large-language-models/",
)
SCALING_LAWS = Source(
    "Bayesian scaling laws for in-context learning",
    "Arora, Jurafsky, Potts and Goodman",
    2024,
    "https://arxiv.org/abs/2410.16531",
)
TASK_VECTORS = Source(
    "In-Context Learning Creates Task Vectors", "Hendel, Geva and Globerson", 2023, "https://arxiv.org/abs/2310.15916"
)
FUNCTION_VECTORS = Source(
    "Function Vectors in Large Language Models",
    "Todd, Li, Sen Sharma, Mueller, Wallace and Bau",
    2024,
    "https://arxiv.org/abs/2310.15213",
)
WHICH_HEADS_MATTER = Source(
    "Which Attention Heads Matter for In-Context Learning?",
    "Yin and Steinhardt",
    2025,
    "https://arxiv.org/abs/2502.14010",
)
INDUCTION_HEADS = Source(
    "In-context Learning and Induction Heads",
    "Olsson, Elhage, Nanda and others",
    2022,
    "https://transformer-circuits.pub/2022/in-context-learning-and-induction-heads/index.html",
)
INDIRECT_OBJECTS = Source(
    "Interpretability in the Wild: a Circuit for Indirect Object Identification in GPT-2 Small",
    "Wang, Variengien, Conmy, Shlegeris and Steinhardt",
    2023,
    "https://arxiv.org/abs/2211.00593",
)
HYDRA_EFFECT = Source(
    "The Hydra Effect: Emergent Self-repair in Language Model Computations",
    "McGrath, Rahtz, Kramár, Mikulik and Legg",
    2023,
    "https://arxiv.org/abs/2307.15771",
)
