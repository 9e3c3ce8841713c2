"""The questions that people ask, each with a test that answers it."""
