"""False discoveries over the heads of random models, and why the matched null is not exactly a null.

`pytest tests/test_random_heads.py -s` prints the counts.
"""

import numpy as np
import pytest
import torch
from scipy.stats import binom

import headscope as hs
from headscope.detectors import default_prompts, detector
from headscope.detectors.reading import MassReading
from headscope.measures import simultaneous
from headscope.tasks.repeated import without_repeats
from tests import tiny

KINDS = ("induction", "duplicate_token")


def most(trials, rate=0.05):
    """So many hits are exceeded by chance once in a thousand at this rate."""
    return int(binom.ppf(0.999, trials, rate))


def between_nulls(model, prompts, seed):
    """Bounds for the same pairs on two samples of prompts, neither of which repeats anything."""
    sets = [detector(name).key_sets(prompts.repeated) for name in KINDS]
    one, other = MassReading(sets), MassReading(sets)
    model.read(without_repeats(model, prompts.repeated, seed=1000 + seed), [one])
    model.read(prompts.unrepeated, [other])
    found = {}
    for place, name in enumerate(KINDS):
        apart = [(one.mass[layer] - other.mass[layer])[place] for layer in sorted(one.mass)]
        found[name] = simultaneous(torch.cat(apart, dim=1).double().numpy())
    return found


@pytest.fixture(scope="module")
def twenty():
    """Detector table and bounds between nulls of 20 random models of 12 heads, 50 short prompts each."""
    found = []
    for seed in range(20):
        model = tiny.opened("gpt2", seed=seed)
        prompts = default_prompts(model, n=50, seed=seed, length=6, repeats=3)
        found.append((hs.detect(model, KINDS, prompts=prompts), between_nulls(model, prompts, seed)))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_where_nothing_is_there_one_model_in_twenty_shows_a_head(twenty, kind):
    # Both samples are without structure, so the differences are exchangeable: the promise is exact here.
    models = sum(bool((bounds[kind].at_least > 0).any()) for _, bounds in twenty)
    alone = np.mean([bounds[kind].p_alone <= 0.05 for _, bounds in twenty])
    one_at_a_time = sum(bool((bounds[kind].p_alone <= 0.05).any()) for _, bounds in twenty)
    print(
        f"{kind}, null against null: {models} of 20 models show a head, {one_at_a_time} where heads are judged "
        f"one at a time; {alone:.3f} of heads alone"
    )
    assert models <= most(20)
    assert one_at_a_time > most(20)
    assert alone == pytest.approx(0.05, abs=0.03)


def test_induction_on_random_models_stays_within_the_rate_and_nothing_is_named(twenty):
    tables = [table for table, _ in twenty]
    shown = {
        kind: sum(any(row["adjusted_low"] > 0 for row in table.rows(detector=kind)) for table in tables)
        for kind in KINDS
    }
    alone = np.mean([row["above_null_low"] > 0 for table in tables for row in table.rows(detector="induction")])
    most_above = max(row["adjusted_low"] for table in tables for row in table.rows())
    print(f"models with a head above the matched null: {shown} of 20; induction heads alone {alone:.3f}")
    print(f"the largest bound of all is {most_above:.3f}")
    assert shown["induction"] <= most(20)
    # Random heads do seek or avoid their own token: a real effect, and the reason for a margin above 0.
    assert shown["duplicate_token"] > most(20)
    assert most_above < 0.1
    assert not any(row["named"] for table in tables for row in table.rows())


def spread_of_t(values):
    """Root mean square over heads of t over prompts [prompt, head]: 1 where differences are exchangeable."""
    t = values.mean(0) / (values.std(0, ddof=1) / len(values) ** 0.5)
    return float((t**2).mean() ** 0.5)


def test_copies_of_the_own_token_are_what_the_matched_null_lacks():
    # Repeated prompts hold copies of the query's token, the null holds none. Attention sums to 1: what they take
    # or leave is missing or left over for what follows them. Without their places, on both kinds of prompts, the
    # heads of the first layer, which see nothing but tokens and places, differ by little more than chance.
    plain, without = [], []
    for seed in range(6):
        model = tiny.opened("llama", seed=seed)
        prompts = default_prompts(model, n=600, seed=seed, length=6, repeats=3)
        following, copies = (detector(name).key_sets(prompts.repeated) for name in KINDS)
        masses = []
        for shown in (prompts.repeated, prompts.unrepeated):
            pattern = model.run(shown, capture=("pattern", 0))["pattern", 0]
            mass = (pattern * following.pairs[:, None]).sum(-1)
            rest = 1 - (pattern * copies.pairs[:, None]).sum(-1)
            judged = following.queries[:, None].expand_as(mass)
            count = judged.sum(-1)
            masses.append([torch.where(judged, one, 0.0).sum(-1) / count for one in (mass, mass / rest)])
        (mass, share), (null_mass, null_share) = masses
        plain.append(mass - null_mass)
        without.append(share - null_share)
    found = (spread_of_t(torch.cat(plain, 1).double().numpy()), spread_of_t(torch.cat(without, 1).double().numpy()))
    print(f"spread of t: {found[0]:.2f} as it is, {found[1]:.2f} without the places of copies")
    assert found[0] > 2
    assert found[1] < 1.6
