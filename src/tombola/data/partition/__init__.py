"""Partitions: K named subsets of the data, one per ticket."""

from tombola.data.partition.clusters import by_clusters, by_text, text_clusters
from tombola.data.partition.partition import Partition, by_column, by_label, by_rule

__all__ = ["Partition", "by_clusters", "by_column", "by_label", "by_rule", "by_text", "text_clusters"]
