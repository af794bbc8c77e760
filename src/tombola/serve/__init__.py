"""Tickets as a service: one process, any number of ticket files, answers over HTTP."""
