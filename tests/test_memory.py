"""A sweep keeps to its memory budget: the growth of a whole process, measured."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench" / "memory.py"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
@pytest.mark.parametrize("kind", ["patch", "knock_out"])
def test_the_peak_stays_within_the_budget_and_a_tenth(kind):
    command = [sys.executable, str(BENCH), kind, "--alone", "--budgets", "64", "--prompts", "16"]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert 2**20 < grown <= 1.1 * 64 * 2**20
