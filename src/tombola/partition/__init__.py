"""Partitions: K named subsets of the data, one per ticket."""

from tombola.partition.columns import by_column, by_label
from tombola.partition.partition import Partition, by_rule

__all__ = ["Partition", "by_column", "by_label", "by_rule"]
