"""Compiled inner loops, each with its plain reference."""
