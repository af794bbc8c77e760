"""Tickets in use: the model, its file, and what is fitted to it (routers, calibrations, exports)."""

from tombola.tickets.model import TicketModel, load

__all__ = ["TicketModel", "load"]
