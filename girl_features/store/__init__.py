"""The feature store: Parquet parts, their Feast views, and what is published online.

Kept empty of imports, so that listing contracts or writing a part does not wait for `import feast`.
"""
