"""The nightly batch as a Dagster job: materialize, then verify, each a `girl` command in a process of its own.

    dagster dev -f dagster_job.py

Dagster's environment needs nothing of ours: `girl` lies in a virtual environment of its own, and the exit code says
what to do (docs/guide.md). A run that Dagster ends gets SIGTERM and commits the chunk in hand; a retry, or the next
night, goes on there.
"""

import os  # no `from __future__ import annotations`: Dagster reads the types of an op's arguments
import subprocess

import dagster

GIRL = os.environ.get("GIRL", "/srv/girl/.venv/bin/girl")
CONFIG = os.environ.get("GIRL_CONFIG", "/srv/girl/girl.yaml")
SOME_FAILED, CANNOT = 1, 2
AGAIN = dagster.RetryPolicy(max_retries=2, delay=float(os.environ.get("GIRL_RETRY_SECONDS", "600")))


def girl(context: dagster.OpExecutionContext, command: str) -> int:
    """Run `girl COMMAND`: its exit code, 0 or 1.

    Raises:
        dagster.Failure: any other; retried unless it is 2, which needs somebody to read what it says.
    """
    process = subprocess.Popen([GIRL, command, "--config", CONFIG])
    try:
        code = process.wait()
    except BaseException:  # Dagster ends the run
        process.terminate()
        process.wait()
        raise
    if code not in (0, SOME_FAILED):
        raise dagster.Failure(f"girl {command} ended with {code}; its log says why", allow_retries=code != CANNOT)
    context.log.info("girl %s ended with %d", command, code)
    return code


@dagster.op(retry_policy=AGAIN, out=dagster.Out(dagster.Nothing))
def materialize(context: dagster.OpExecutionContext) -> None:
    """Generate, encode, store and publish what is missing."""
    if girl(context, "materialize") == SOME_FAILED:
        context.log.warning("some CVs have no JD that is fit to store; `girl runs show last` counts them")


@dagster.op(ins={"done": dagster.In(dagster.Nothing)})
def verify(context: dagster.OpExecutionContext) -> None:
    """Compare what is online with what is offline."""
    if girl(context, "verify") == SOME_FAILED:
        raise dagster.Failure("online and offline differ; the log says where", allow_retries=False)


@dagster.job
def girl_nightly() -> None:
    """Materialize, then verify."""
    verify(materialize())


definitions = dagster.Definitions(
    jobs=[girl_nightly], schedules=[dagster.ScheduleDefinition(job=girl_nightly, cron_schedule="0 2 * * *")]
)
