"""``python -m tombola`` is ``tombola``."""

from tombola.cli.main import main

main()
