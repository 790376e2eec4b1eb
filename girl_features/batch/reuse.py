"""Copy the generated JD of a CV that comes back under another time, instead of generating it again.

Seeds depend on the text and the contract alone, so a second generation would write the same JD. A CV comes back under
another time when its owner restores an old version, when an export dates all rows anew, or when a service sent it in a
request before the tables had it.
"""

from __future__ import annotations

from datetime import datetime

import pyarrow as pa

from girl_features.batch.plan import GenerationPlan
from girl_features.contract import FeatureContract
from girl_features.input.tables import Tables
from girl_features.schema import CREATED_TIMESTAMP, EVENT_TIMESTAMP, GENERATED_SCHEMA, UPDATED_AT
from girl_features.store.parts import PartsStore
from girl_features.store.parts.rows import GENERATED_JDS

ROWS_PER_PART = 10_000


def reuse_generated(
    tables: Tables, contract: FeatureContract, store: PartsStore, plan: GenerationPlan, now: datetime
) -> GenerationPlan:
    """Copy rows of the same seeker and text to the times in `generation_plan`, and take those CVs out of the plan.

    Call it under the store's lock, before the plan is carried out.

    Returns:
        The plan, with the copied CVs counted as unchanged.
    """
    made = store.scan(GENERATED_JDS, contract.fingerprint)
    if made is None or not plan.n_planned:
        return plan
    connection = tables.connection
    connection.execute(
        f"""CREATE OR REPLACE TABLE reuse_plan AS
        SELECT job_seeker_id, generation_plan.updated_at, cv_hash, state, max(made.updated_at) AS made_at
        FROM generation_plan JOIN {made} AS made USING (job_seeker_id, cv_hash) GROUP BY ALL"""
    )
    replaced = {
        EVENT_TIMESTAMP: f"greatest(reuse_plan.updated_at, TIMESTAMPTZ '{contract.trained_until.isoformat()}')",
        CREATED_TIMESTAMP: f"TIMESTAMPTZ '{now.isoformat()}'",
        UPDATED_AT: "reuse_plan.updated_at",
    }
    columns = ", ".join(f"{replaced.get(name, f'made.{name}')} AS {name}" for name in GENERATED_SCHEMA.names)
    cursor = connection.cursor()
    cursor.execute("SET TimeZone = 'UTC'")  # a cursor does not inherit it
    copies = cursor.execute(
        f"""SELECT {columns} FROM reuse_plan JOIN {made} AS made
        ON made.job_seeker_id = reuse_plan.job_seeker_id AND made.cv_hash = reuse_plan.cv_hash
            AND made.updated_at = reuse_plan.made_at
        QUALIFY row_number() OVER (PARTITION BY reuse_plan.job_seeker_id, reuse_plan.updated_at
            ORDER BY made.created_timestamp DESC) = 1"""
    )
    for batch in copies.to_arrow_reader(ROWS_PER_PART):
        if batch.num_rows:
            store.write_part(GENERATED_JDS, contract.fingerprint, pa.Table.from_batches([batch]))
    counts = dict(connection.execute("SELECT state, count(*) FROM reuse_plan GROUP BY 1").fetchall())
    connection.execute(
        """DELETE FROM generation_plan WHERE (job_seeker_id, updated_at, cv_hash) IN
        (SELECT job_seeker_id, updated_at, cv_hash FROM reuse_plan)"""
    )
    n_copied = sum(counts.values())
    return plan._replace(
        n_new=plan.n_new - counts.get("new", 0),
        n_changed=plan.n_changed - counts.get("changed", 0),
        n_failed_before=plan.n_failed_before - counts.get("failed_before", 0),
        n_unchanged=plan.n_unchanged + n_copied,
        n_planned=plan.n_planned - n_copied,
    )
