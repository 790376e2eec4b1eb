"""Experiments that ask if a feature helps: arms, controls, baselines, grounding and judges. No service needs them."""
