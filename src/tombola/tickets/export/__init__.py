"""Export: tickets as smaller dense networks, and as files that other programs read."""

from tombola.tickets.export.compact import compact
from tombola.tickets.export.files import state_of, write_program, write_state

__all__ = ["compact", "state_of", "write_program", "write_state"]
