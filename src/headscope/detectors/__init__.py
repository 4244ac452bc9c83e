"""Detectors: what a head attends to, as scores with nulls."""

from headscope.detectors.catalogue import DEFAULT, KNOWN, Detector, detector, detectors
from headscope.detectors.copying import COPYING_MARGIN, kinds
from headscope.detectors.detect import (
    NAMING_UNITS,
    DetectorPrompts,
    check_sizes,
    default_prompts,
    detect,
    head_attention,
    heads_table,
    reach_of,
    signed_raise,
)
from headscope.detectors.scores import HEADS, NAMED_MARGIN, LayerMass, above_null

__all__ = [
    "COPYING_MARGIN",
    "DEFAULT",
    "HEADS",
    "KNOWN",
    "NAMED_MARGIN",
    "NAMING_UNITS",
    "Detector",
    "DetectorPrompts",
    "LayerMass",
    "above_null",
    "check_sizes",
    "default_prompts",
    "detect",
    "detector",
    "detectors",
    "head_attention",
    "heads_table",
    "kinds",
    "reach_of",
    "signed_raise",
]
