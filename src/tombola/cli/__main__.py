"""``python -m tombola.cli`` is ``tombola``."""

from tombola.cli.main import main

main()
