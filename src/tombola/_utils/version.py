"""The version, which `pyproject.toml` reads here."""

VERSION = "0.2.0"
