"""Recommenders from the literature, and the control that learns from matched texts."""
