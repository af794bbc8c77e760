"""What leaves the house: tickets as smaller dense networks, and as files that other programs read."""

from tombola.tickets.export.compact import compact
from tombola.tickets.export.files import write_program, write_state
from tombola.tickets.export.plain import state_of

__all__ = ["compact", "state_of", "write_program", "write_state"]
