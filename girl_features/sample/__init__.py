"""A simulated job market, and the demo that runs on it."""
