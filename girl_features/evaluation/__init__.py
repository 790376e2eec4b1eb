"""Comparison of rankers with and without the generated JD: metrics, intervals, tables."""
