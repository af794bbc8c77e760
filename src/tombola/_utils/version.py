"""The version, for whoever writes it down; `pyproject.toml` has the same."""

VERSION = "0.1.0"
