"""Finished runs opened again: what routing, calibration and coupling are worth in them."""
