"""Ends processes of Ray whose raylet is gone.

When a raylet dies with its GCS, its two agents wait 60 s to report that to the GCS (Ray 2.60), with 200 MB of memory. A
worker that was starting looks 26 s for the GCS. Without their raylet they are of no use to anybody.
"""

from __future__ import annotations

import subprocess
from contextlib import suppress

MOST_SEC = 20.0
"""How long end_orphans() waits for the shell on a machine that is busy."""
END_ORPHANS = """
for agent in $(grep -lsE '^ray::(DashboardAgent|RuntimeEnvAgent)' /proc/[0-9]*/cmdline); do
    agent=${agent%/cmdline}
    parent=$(sed 's/.*) . \\([0-9]*\\) .*/\\1/' "$agent/stat" 2> /dev/null) || continue
    grep -qsE '^[^[:space:]]*/raylet' "/proc/$parent/cmdline" || kill -KILL "${agent#/proc/}" 2> /dev/null
done
for worker in $(grep -lsE '^[^[:space:]]*/ray/_private/workers/default_worker[.]py' /proc/[0-9]*/cmdline); do
    raylet=$(tr '\\0' '\\n' 2> /dev/null < "$worker" | sed -n 's/^--raylet-name=//p')
    [ -n "$raylet" ] || continue
    grep -qsF -- "$raylet" /proc/net/unix
    [ $? -ne 1 ] || kill -KILL "$(basename "${worker%/cmdline}")" 2> /dev/null
done
"""
"""For a shell: a watcher of a command that was killed has no other means. The titles of agents tell them from raylets,
in whose command lines those of their agents stand. A worker is known by its own command line until it has a title, and
its raylet by a socket on which it listens: the parent of a worker in a container, or below `uv run`, is another."""
END_LATE_ORPHANS = f"""
for sec in 1 3 6; do
    sleep $sec
    {END_ORPHANS}
done
"""
"""The same over ten seconds: an agent that is still loading its code has no title yet."""


def end_orphans() -> None:
    """Ends what is left of all Rays on this machine that are gone, as far as it belongs to this user."""
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(["/bin/sh", "-c", END_ORPHANS], timeout=MOST_SEC, check=False)


def end_late_orphans() -> None:
    """Looks in the background for agents and workers that were starting when their Ray ended."""
    with suppress(OSError):
        subprocess.Popen(
            ["/bin/sh", "-c", END_LATE_ORPHANS], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
