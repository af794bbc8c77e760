"""Export: tickets as smaller dense networks, and as files that other programs read."""

from tombola.tickets.export.adapters import write_adapters
from tombola.tickets.export.compact import compact
from tombola.tickets.export.files import state_of, write_state
from tombola.tickets.export.peft import write_peft
from tombola.tickets.export.programs import write_program

__all__ = ["compact", "state_of", "write_adapters", "write_peft", "write_program", "write_state"]
