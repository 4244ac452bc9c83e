"""Four of the random models that `make nulls` counts: no claim is supported, with its needs or without them."""

from pathlib import Path

import pytest
from tools.nulls import Judged, file_of, kept, run_one

from headscope.results.study import Verdict
from headscope.studies.registry import STUDIES
from tests.truth.cases import CASES
from tests.truth.models import RANDOM, Random

FOUR = [spec for spec in RANDOM if spec.name in ("toy-usual-0", "gpt2-large-1", "mistral-huge-2", "qwen2-large-3")]


@pytest.fixture(scope="module", params=FOUR, ids=lambda spec: spec.name)
def judged(request, tmp_path_factory) -> list[Judged]:
    out: Path = tmp_path_factory.mktemp("nulls")
    spec: Random = request.param
    assert run_one(spec, list(STUDIES), out) == 0
    assert file_of(out, "heads", spec).exists()
    return list(kept(out))


def test_random_weights_support_nothing(judged):
    supported = [(row.study, row.claim, row.because) for row in judged if row.shipped == Verdict.SUPPORTED]
    assert supported == []


def test_every_claim_has_worlds_to_be_told_from(judged):
    assert {(row.study, row.claim) for row in judged} <= {(case.study, case.claim) for case in CASES}


def test_nor_with_needs_switched_off(judged):
    supported = [(row.study, row.claim, row.because) for row in judged if row.without_needs == Verdict.SUPPORTED]
    assert supported == []
