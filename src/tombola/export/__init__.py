"""What leaves the house: tickets as smaller dense networks."""

from tombola.export.compact import compact

__all__ = ["compact"]
