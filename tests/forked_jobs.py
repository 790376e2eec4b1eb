"""Jobs in forked children that are killed, as told by requests on stdin.

A worker process imports Feast once, which takes seconds, and forks for each job.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

Job = Callable[[], object]


def fork(job: Job) -> int:
    """Run the job in a forked child and return its process id. The child exits with 1 if the job raises."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            job()
            code = 0
        finally:
            os._exit(code)
    return pid


def serve_requests(jobs_for: Callable[[dict[str, Any]], Sequence[Job]]) -> None:
    """Run jobs for each JSON request on stdin and answer how many were killed and how many failed.

    Args:
        jobs_for: returns the jobs of a request. If the request has a `delay`, they are killed after so many seconds.
    """
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        pids = [fork(job) for job in jobs_for(request)]
        if request["delay"] is not None:
            time.sleep(request["delay"])
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        n_killed = codes.count(-signal.SIGKILL)
        print(json.dumps({"killed": n_killed, "failed": sum(code > 0 for code in codes)}), flush=True)
