"""Choosing between models: cross-validation, and searches over a system's options."""
