"""Ours and the peers side by side; each file prints its table and keeps it in `results/`."""
