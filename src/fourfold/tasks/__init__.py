"""Verbs that several systems of one task share: a floor between the four parts and the systems."""
