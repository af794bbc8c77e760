"""Commands of the command line, a module each; `tombola.cli` registers them."""
