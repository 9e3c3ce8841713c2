"""Adaptations, each with the guarantee that it states."""
