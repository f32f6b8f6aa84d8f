"""Documents of any kind as text with a structure, and that text cut into passages."""
