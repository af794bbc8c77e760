"""The laboratory: experiments, their evaluation, and reports. Nothing of the library imports it."""
