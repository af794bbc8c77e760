"""Commands of their own; `tombola.cli` registers them."""
