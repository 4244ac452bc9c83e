"""For all tests: shapes and types are checked at run time, and one thread is used.

The checks (jaxtyping with beartype) are for the pure functions, whose signatures carry shapes. One thread,
because the models of the tests are so small that a second one only waits for the first.
"""

import torch
from jaxtyping import install_import_hook

install_import_hook(["headscope.measures", "headscope.detectors.pairs"], "beartype.beartype")
torch.set_num_threads(1)
