"""A measure keeps its identity under another Python, and loses it when what it computes changes."""

import dataclasses
import json
import types

import pytest
import torch

import headscope as hs
from headscope.hashing import digest
from headscope.measures.readouts import Measure, ReadOut
from headscope.vocabulary import Positions
from tests import tiny

MODULE = '''
import torch
FLOOR = 0.5

def lifted(value):
    return value + FLOOR

def factory(scale):
    """Makes one."""
    def compute(logits, prompts, at):
        "What an optimising compiler throws away."
        return lifted(scale * logits[:, 0].mean(-1))
    return compute
'''


class Unwritten:
    """A factor of which nothing says what it is."""

    def __mul__(self, other):
        return other


def made(tmp_path, text=MODULE, *, optimize=0):
    """A module of this text, compiled as one Python or another would."""
    path = tmp_path / f"mine{abs(hash(text))}.py"
    path.write_text(text)
    module = types.ModuleType("mine")
    exec(compile(text, str(path), "exec", optimize=optimize), module.__dict__)
    return module


def own(compute, **more):
    return Measure("mine", "", 1, ReadOut(Positions.of(-1)), compute, **more)


def test_code_compiled_otherwise_is_the_same_measure(tmp_path):
    plain, optimised = (made(tmp_path, optimize=level).factory(2.0) for level in (0, 2))
    assert plain.__code__.co_consts != optimised.__code__.co_consts
    assert digest(own(plain)) == digest(own(optimised))
    measure = hs.measures.loss()
    code = measure.compute.__wrapped__.__code__ if hasattr(measure.compute, "__wrapped__") else None
    function = measure.compute.__wrapped__ if code else measure.compute
    other = types.FunctionType(
        function.__code__.replace(co_consts=(*function.__code__.co_consts, "another Python")),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    other.__module__ = function.__module__
    assert digest(dataclasses.replace(measure, compute=other)) == digest(measure)


def test_what_a_function_refers_to_is_part_of_it(tmp_path):
    measure = digest(own(made(tmp_path).factory(2.0)))
    assert measure == digest(own(made(tmp_path).factory(2.0)))
    different = [
        made(tmp_path).factory(3.0),  # what it closed over
        made(tmp_path, MODULE.replace("FLOOR = 0.5", "FLOOR = 0.6")).factory(2.0),  # a number beside it
        made(tmp_path, MODULE.replace("value +", "value -")).factory(2.0),  # a function beside it
        made(tmp_path, MODULE.replace(".mean(-1)", ".amax(-1)")).factory(2.0),  # its own text
    ]
    assert len({measure, *(digest(own(compute)) for compute in different)}) == 5


def test_declared_measures_differ_by_parameters_and_version_alone(tmp_path):
    compute, other = made(tmp_path).factory(2.0), made(tmp_path).factory(3.0)
    assert digest(own(compute, version=1)) == digest(own(other, version=1))
    assert digest(own(compute, version=1)) != digest(own(compute, version=2))
    assert digest(own(compute, version=1)) != digest(own(compute, version=1, parameters={"scale": 3.0}))
    assert digest(hs.measures.loss()) != digest(hs.measures.loss([3]))
    references = torch.zeros(1, 2, 3), torch.ones(1, 2, 3)
    assert len({digest(hs.measures.kl(reference)) for reference in references}) == 2


def test_what_cannot_be_told_apart_is_refused_before_anything_runs(tmp_path):
    typed = {}
    exec("def compute(logits, prompts, at): return logits[:, 0].mean(-1)", typed)
    model, cells = tiny.opened("gpt2"), hs.grid(hs.zero("z"), layers=[0], heads=[0])
    for compute, words in (
        (lambda logits, prompts, at: logits[:, 0].mean(-1), r"measure 'mine'.*no source.*version=1"),
        (typed["compute"], r"no source.*version=1"),
        (made(tmp_path).factory(Unwritten()), r"'scale'.*of type Unwritten.*version=1"),
    ):
        with pytest.raises(hs.errors.BadArgument, match=words):
            hs.sweep(model, tiny.ids(), cells, own(compute), out=tmp_path / "run")
        assert not (tmp_path / "run").exists()
    table = hs.sweep(model, tiny.ids(), cells, own(typed["compute"], version=1), out=tmp_path / "run")
    assert len(table) == 1


def test_a_record_keyed_by_compiled_code_is_refused(tmp_path):
    model, cells = tiny.opened("gpt2"), hs.grid(hs.zero("z"), layers=[0], heads=[0])
    hs.sweep(model, tiny.ids(), cells, hs.measures.loss(), out=tmp_path)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["measure"]["version"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(hs.errors.OutputExists, match=r"by their compiled code.*--out"):
        hs.sweep(model, tiny.ids(), cells, hs.measures.loss(), out=tmp_path)
