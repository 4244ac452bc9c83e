"""Shapes of a score over training steps, fitted to many curves at once: a change, and what drifts without one.

In: steps [checkpoint] and curves [curve, checkpoint]. Out: the shape of least squares of each curve. Every shape is
base + height * f(step), where f has one or two parameters:

    logistic      1 / (1 + (step / m)^(-1 / s))     m the midpoint, s the scale: 10 to 90% are m 9^-s to m 9^s
    power law     (step^c - 1) / c                  c = 1 is linear in step, c = 0 in log step
    saturation    exp(-step / tau)                  slows down from the start; linear for a large tau

Base and height are solved for; the others are found on a grid, then by a pattern search, all curves together. A
logistic with s of 1 or more only ever slows down in step (its slope in step falls from the first on): it is a
saturation and not a change, and is not tried. Not done here: which shape is believed (measures.change_point).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from headscope.measures.intervals import Array

# Of the pattern search, whose reach begins at half the grid's spacing and is halved when nothing there is better.
_ROUNDS = 12
# From 10 to 90% of a logistic, in scales.
_WINDOW = 2 * float(np.log(9))
# Midpoints tried between two checkpoints, and scales between the narrowest and the widest.
_PER_GAP, _SCALES = 2, 12
_EXPONENTS = np.linspace(-3, 3, 61)
# A shape of which about its mean no more than this share of its square is left is not seen at these steps.
_UNSEEN = 1e-9


@dataclass(frozen=True)
class Shapes:
    """One family of shapes on the steps of a curve.

    `f` maps parameters [..., parameter] to the shape [..., checkpoint]; `tried` [shape, parameter] is the grid,
    `apart` [shape, parameter] its spacing there, `low` and `high` [parameter] are the ends of the parameters.
    """

    name: str
    f: Callable[[Array], Array]
    tried: Array
    apart: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Fitted:
    """The best shape of each curve: its parameters [curve, parameter], base, height and squared error [curve]."""

    parameters: Array
    base: Array
    height: Array
    error: Array


def logistics(steps: Array) -> Shapes:
    """Logistics in log step whose midpoint lies between the first and the last checkpoint; (log m, log s).

    The narrowest rises by 10 to 90% within half the smallest distance of two checkpoints.
    """
    x = np.log(steps)
    between = np.arange((len(x) - 1) * _PER_GAP + 1) / _PER_GAP
    middles = np.interp(between, np.arange(len(x)), x)
    narrowest = np.log(np.diff(x).min() / 2 / _WINDOW)
    scales = np.linspace(narrowest, np.log(min(1.0, (x[-1] - x[0]) / _WINDOW)), _SCALES)
    grid = np.stack(np.meshgrid(middles, scales, indexing="ij"), -1).reshape(-1, 2)
    apart = np.stack(np.meshgrid(np.gradient(middles), np.gradient(scales), indexing="ij"), -1).reshape(-1, 2)

    def f(parameters: Array) -> Array:
        # By tanh, which numpy computes many times as fast as scipy its expit.
        return np.asarray((1 + np.tanh((x - parameters[..., :1]) * np.exp(-parameters[..., 1:]) / 2)) / 2)

    return Shapes("logistic", f, grid, apart, np.array([x[0], scales[0]]), np.array([x[-1], scales[-1]]))


def power_laws(steps: Array) -> Shapes:
    """Power laws with exponents from -3 to 3, logarithm (0) and straight line (1) among them; (c,)."""
    x = np.log(steps) - np.log(steps).mean()

    def f(parameters: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            curved = np.expm1(parameters * x) / parameters
        return np.asarray(np.where(np.abs(parameters) < 1e-9, x, curved))

    ends = _EXPONENTS[[0, -1]][:, None]
    return Shapes("power law", f, _EXPONENTS[:, None], np.gradient(_EXPONENTS)[:, None], *ends)


def saturations(steps: Array) -> Shapes:
    """Exponential approaches to a last value, with time constants from a gap to ten times all steps; (log tau,)."""
    times = np.linspace(np.log(np.diff(steps).min()), np.log(10 * steps[-1]), 40)

    def f(parameters: Array) -> Array:
        return np.asarray(np.exp(-(steps - steps[0]) * np.exp(-parameters)))

    return Shapes("saturation", f, times[:, None], np.gradient(times)[:, None], times[:1], times[-1:])


def fit(shapes: Shapes, curves: Array) -> Fitted:
    """The shape of least squares of every curve [curve, checkpoint]."""
    centred = curves - curves.mean(1, keepdims=True)
    grid = shapes.f(shapes.tried)
    best = _explained(centred @ grid.T, grid).argmax(1)
    return _solved(shapes, curves, _searched(shapes, centred, shapes.tried[best], shapes.apart[best]))


def fit_at(shapes: Shapes, curves: Array, first: Array) -> Fitted:
    """The same with the first parameter given for each curve, [curve]."""
    others = np.unique(shapes.tried[:, 1])
    tried = np.stack(np.broadcast_arrays(first[:, None], others), -1)
    centred = curves - curves.mean(1, keepdims=True)
    grid = shapes.f(tried)
    best = tried[np.arange(len(curves)), _explained(np.einsum("cn,csn->cs", centred, grid), grid).argmax(1)]
    apart = np.tile(shapes.apart[0] * [0, 1], (len(curves), 1))
    return _solved(shapes, curves, _searched(shapes, centred, best, apart))


def _searched(shapes: Shapes, centred: Array, start: Array, apart: Array) -> Array:
    """Better parameters by a pattern search: to the best of the neighbours, nearer ones where none is better.

    `start` and `apart` are [curve, parameter]; a parameter with a spacing of 0 throughout stays.
    """
    sides = [[0, -1, 1] if moves else [0] for moves in apart.max(0) > 0]
    ways = np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, start.shape[1])
    reach = apart / 2
    every = np.arange(len(start))
    for _ in range(_ROUNDS):
        near = np.clip(start[:, None] + ways * reach[:, None], shapes.low, shapes.high)
        tried = shapes.f(near)
        way = _explained(np.einsum("cn,cwn->cw", centred, tried), tried).argmax(1)
        start = near[every, way]
        reach[way == 0] /= 2
    return start


def _solved(shapes: Shapes, curves: Array, parameters: Array) -> Fitted:
    shape = shapes.f(parameters)
    mean, level = curves.mean(1), shape.mean(1)
    around, centred = shape - level[:, None], curves - mean[:, None]
    square = (around**2).sum(1)
    seen = square > _UNSEEN * (shape**2).sum(1)
    height = np.where(seen, (around * centred).sum(1) / np.where(seen, square, 1.0), 0.0)
    error = ((centred - height[:, None] * around) ** 2).sum(1)
    return Fitted(parameters, mean - height * level, height, error)


def _explained(products: Array, shapes: Array) -> Array:
    """By how much shapes [..., checkpoint] lower the squared errors of curves, from their products with these about
    their mean; 0 where nothing is seen of a shape.
    """
    n = shapes.shape[-1]
    square = np.einsum("...n,...n->...", shapes, shapes)
    about = square - (shapes @ np.ones(n)) ** 2 / n
    seen = about > _UNSEEN * square
    return np.asarray(products**2 * np.where(seen, 1 / np.where(seen, about, 1.0), 0.0))
