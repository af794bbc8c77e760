"""Commands of the command line, a file each; `tombola.cli` registers them."""
