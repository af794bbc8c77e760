"""A run on disk: its directory, its finished stages, its log, and its lock."""

from tombola.runs.directory import Run

__all__ = ["Run"]
