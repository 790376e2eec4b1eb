"""From generated JDs to real open jobs."""
