"""Masks as data: which weights are prunable, K named masks over them, and the product with weights."""

from tombola.masks.layout import Layout
from tombola.masks.maskset import MaskSet

__all__ = ["Layout", "MaskSet"]
