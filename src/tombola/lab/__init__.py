"""The laboratory: experiments, their evaluation, and reports. Nothing of the library imports it."""

from tombola._utils.errors import need_lab

need_lab("tombola.lab")
