"""Partitions: K named subsets of the data, one per ticket."""

from tombola.data.partition.clusters import by_clusters
from tombola.data.partition.columns import by_column, by_label
from tombola.data.partition.partition import Partition, by_rule
from tombola.data.partition.texts import by_text, text_clusters

__all__ = ["Partition", "by_clusters", "by_column", "by_label", "by_rule", "by_text", "text_clusters"]
