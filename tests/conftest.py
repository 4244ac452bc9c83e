"""For all tests: shapes and types are checked at run time, one thread is used, and no cache outlives them.

The checks (jaxtyping with beartype) are for the pure functions, whose signatures carry shapes. One thread,
because the models of the tests are so small that a second one only waits for the first.
"""

import os
import tempfile

import torch
from jaxtyping import install_import_hook

# A folder of their own, removed at the end: tests neither find nor leave certificates in the user's cache.
_cache = tempfile.TemporaryDirectory(prefix="headscope-tests-")
os.environ["HEADSCOPE_CACHE"] = _cache.name
install_import_hook(["headscope.measures", "headscope.detectors.pairs"], "beartype.beartype")
torch.set_num_threads(1)
