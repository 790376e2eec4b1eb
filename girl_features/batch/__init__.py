"""The nightly batch: plan what the store lacks, generate and encode it, and commit it chunk by chunk."""
