"""Detectors: what a head attends to, as scores with nulls."""

from headscope.detectors.catalogue import DEFAULT, KNOWN, Detector, detector, detectors
from headscope.detectors.detect import (
    DetectorPrompts,
    check_sizes,
    default_prompts,
    detect,
    head_attention,
    heads_table,
    reach_of,
)
from headscope.detectors.scores import HEADS, NAMED_MARGIN, LayerMass, above_null

__all__ = [
    "DEFAULT",
    "HEADS",
    "KNOWN",
    "NAMED_MARGIN",
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
    "reach_of",
]
