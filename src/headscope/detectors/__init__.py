"""Detectors: what a head attends to, as scores with nulls."""

from headscope.detectors.catalogue import DEFAULT, KNOWN, Detector, detector, detectors
from headscope.detectors.detect import HEADS, NAMED_MARGIN, DetectorPrompts, default_prompts, detect

__all__ = [
    "DEFAULT",
    "HEADS",
    "KNOWN",
    "NAMED_MARGIN",
    "Detector",
    "DetectorPrompts",
    "default_prompts",
    "detect",
    "detector",
    "detectors",
]
