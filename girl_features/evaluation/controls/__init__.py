"""Simple scores of a pair, which any feature of a language model has to beat: words, style and popularity."""
