"""The feature store: Parquet parts, their Feast views, Feast plugins that read and write them, and publishing online.

Feast is imported only by the modules that need it, so that listing contracts or writing a part stays fast.
"""
