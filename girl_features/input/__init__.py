"""Read the three tables of the user, check every row, and cut the time windows."""
