"""Compare the JDs of two generators."""
