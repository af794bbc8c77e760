"""Methods, baselines and controls as compositions (`tombola.methods.table`), and what carries them out."""

from tombola.methods.table import METHODS, STANDARD, TOOLBOX, Method, method

__all__ = ["METHODS", "STANDARD", "TOOLBOX", "Method", "method"]
