"""Rankers on PairFeatures, plain columns for other rankers, a ranking service, and jobs for Ray and orchestrators."""
