"""The nightly batch as an Airflow DAG: materialize, then verify, each as a `girl` command in its own process.

Copy this file into the DAGs folder. Airflow's environment does not need girl-features: `girl` is installed in its own
virtual environment, and its exit code says what to do (docs/guide.md). When Airflow stops a task, `girl` gets SIGTERM
and commits the current chunk. A retry or the next night continues from there.
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
    catchup=False,  # every run does everything that is missing, so a missed night needs no run of its own
    max_active_runs=1,
    default_args={
        "retries": 2,  # after another run at work, a full disk or a killed machine, the next try resumes
        "retry_delay": timedelta(minutes=10),
        "env": {"GIRL": GIRL, "GIRL_CONFIG": CONFIG},
        "append_env": True,
    },
) as dag:
    materialize = BashOperator(
        task_id="materialize",
        bash_command='"$GIRL" materialize --config "$GIRL_CONFIG" || [ $? -eq 1 ]',  # 1: done, except for some CVs
    )
    verify = BashOperator(task_id="verify", bash_command='"$GIRL" verify --config "$GIRL_CONFIG"')
    materialize >> verify
