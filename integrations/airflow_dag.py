"""The nightly batch as an Airflow DAG: materialize, then verify, each a `girl` command in a process of its own.

Copy this file into the DAGs folder. Airflow's environment needs nothing of ours: `girl` lies in a virtual environment
of its own, and the exit code says what to do (docs/guide.md). A task that Airflow ends gets SIGTERM and commits the
chunk in hand; a retry, or the next night, goes on there.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

GIRL = os.environ.get("GIRL", "/srv/girl/.venv/bin/girl")
CONFIG = os.environ.get("GIRL_CONFIG", "/srv/girl/girl.yaml")

with DAG(
    dag_id="girl_nightly",
    schedule="0 2 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,  # every run does all that is missing: a night that was left out needs none of its own
    max_active_runs=1,
    default_args={
        "retries": 2,  # another run at work, a full disk, a killed machine: run again, and it resumes
        "retry_delay": timedelta(minutes=10),
        "env": {"GIRL": GIRL, "GIRL_CONFIG": CONFIG},
        "append_env": True,
    },
) as dag:
    materialize = BashOperator(
        task_id="materialize",
        bash_command='"$GIRL" materialize --config "$GIRL_CONFIG" || [ $? -eq 1 ]',  # 1: done, but for some CVs
    )
    verify = BashOperator(task_id="verify", bash_command='"$GIRL" verify --config "$GIRL_CONFIG"')
    materialize >> verify
