"""One file per system: what users name."""
