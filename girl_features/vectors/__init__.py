"""Arithmetic on vectors and scores that several parts share, in numpy alone."""
