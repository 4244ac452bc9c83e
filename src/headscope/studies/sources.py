"""The papers whose claims several studies put to the test: named once, with where to find them."""

from headscope.results.study import Source

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
