"""Rows of the table of refusals."""

CALLS = []
