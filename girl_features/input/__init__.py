"""Reading of the three input tables: checks of every row, time windows, and the rows of each window."""
