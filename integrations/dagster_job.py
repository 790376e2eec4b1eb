"""The nightly batch as a Dagster job: materialize, then verify, each as a `girl` command in its own process.

    dagster dev -f dagster_job.py

Dagster's environment does not need girl-features: `girl` is installed in its own virtual environment, and its exit
code says what to do (docs/guide.md). When Dagster stops a run, `girl` gets SIGTERM and commits the current chunk. A
retry or the next night continues from there.
"""

import os  # no `from __future__ import annotations`: Dagster reads the types of an op's arguments
import subprocess

import dagster

GIRL = os.environ.get("GIRL", "/srv/girl/.venv/bin/girl")
CONFIG = os.environ.get("GIRL_CONFIG", "/srv/girl/girl.yaml")
SOME_FAILED, BAD_INPUT = 1, 2  # exit codes
RETRIES = dagster.RetryPolicy(max_retries=2, delay=float(os.environ.get("GIRL_RETRY_SECONDS", "600")))


def girl(context: dagster.OpExecutionContext, command: str) -> int:
    """Run `girl COMMAND` and return its exit code, 0 or 1.

    Raises:
        dagster.Failure: any other exit code. It is retried, except for 2: bad input needs a person to correct it.
    """
    process = subprocess.Popen([GIRL, command, "--config", CONFIG])
    try:
        code = process.wait()
    except BaseException:  # Dagster stops the run
        process.terminate()
        process.wait()
        raise
    if code not in (0, SOME_FAILED):
        raise dagster.Failure(f"girl {command} ended with {code}; its log says why", allow_retries=code != BAD_INPUT)
    context.log.info("girl %s ended with %d", command, code)
    return code


@dagster.op(retry_policy=RETRIES, out=dagster.Out(dagster.Nothing))
def materialize(context: dagster.OpExecutionContext) -> None:
    """Generate, encode, store and publish what is missing."""
    if girl(context, "materialize") == SOME_FAILED:
        context.log.warning("some CVs have no valid generated JD; `girl runs show last` counts them")


@dagster.op(ins={"done": dagster.In(dagster.Nothing)})
def verify(context: dagster.OpExecutionContext) -> None:
    """Compare the online store with the offline store."""
    if girl(context, "verify") == SOME_FAILED:
        raise dagster.Failure("online and offline store differ; the log says where", allow_retries=False)


@dagster.job
def girl_nightly() -> None:
    """Materialize, then verify."""
    verify(materialize())


definitions = dagster.Definitions(
    jobs=[girl_nightly], schedules=[dagster.ScheduleDefinition(job=girl_nightly, cron_schedule="0 2 * * *")]
)
