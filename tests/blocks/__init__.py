"""Blocks: the regions that are found, on numbers, on small models and on published ones."""
