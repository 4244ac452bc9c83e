"""Detectors: what a head attends to, as scores with nulls."""

from headscope.detectors.catalogue import DEFAULT, KNOWN, Detector, detector, detectors
from headscope.detectors.detect import (
    DetectorPrompts,
    check_reach,
    check_sizes,
    default_prompts,
    detect,
    reach_of,
)
from headscope.detectors.scores import HEADS, NAMED_MARGIN

__all__ = [
    "DEFAULT",
    "HEADS",
    "KNOWN",
    "NAMED_MARGIN",
    "Detector",
    "DetectorPrompts",
    "check_reach",
    "check_sizes",
    "default_prompts",
    "detect",
    "detector",
    "detectors",
    "reach_of",
]
