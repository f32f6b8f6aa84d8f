"""The guides, and what generates the pages that follow from the code."""
