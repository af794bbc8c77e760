"""Data in three splits, their batches, and who belongs to which subset."""

from tombola.data.dataset import Data, Split

__all__ = ["Data", "Split"]
