"""The quality gate: measures that tell if a generator writes JDs worth publishing (docs/adr/0020)."""

from girl_features.batch.quality.verdict import Measure, Verdict, judge, last_verdict, require_quality, stored_verdict

__all__ = ["Measure", "Verdict", "judge", "last_verdict", "require_quality", "stored_verdict"]
