"""Maps from the vectors of a new contract to those of an old one, for rankers that were trained on the old one."""
