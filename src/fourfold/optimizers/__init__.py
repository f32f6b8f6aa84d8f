"""How it is found."""
