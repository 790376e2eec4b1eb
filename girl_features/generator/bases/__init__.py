"""Pretrained base models that can be named without a path, and how each becomes a folder of the workspace."""
