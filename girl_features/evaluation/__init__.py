"""How well a ranker does with and without the generated JD: metrics, intervals, tables."""
