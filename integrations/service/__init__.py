"""A ranking service over HTTP."""
