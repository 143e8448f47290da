"""`make dev`: the Dagster UI, daemon and code location of this checkout, until Ctrl-C."""

import itertools
import os
import signal
import time

from dagster import DagsterInstance

from headrace.command_line.project import find_project, in_this_project
from headrace.errors import HeadraceError
from headrace.text.terminal import say
from headrace_dagster.launchers.process_launcher import fail_runs_of_dead_workers
from headrace_dagster.project.services import services, ui_port
from resources.settings import CHECKOUT, settings_from_environment
from resources.user_files import file_problems


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        # Runs read the project's `.env` by Dagster; the port and the state of what starts them must be the same ones.
        with in_this_project():
            serve()
    except KeyboardInterrupt:
        print("\nStopped. Runs under way go on.")
    except HeadraceError as error:
        say(str(error), error=True)
        raise SystemExit(1) from None


def serve() -> None:
    settings = settings_from_environment()
    for problem in itertools.chain.from_iterable(file_problems(settings).values()):
        say(problem, error=True)
    with (
        DagsterInstance.get() as instance,
        services(
            find_project(CHECKOUT, os.environ),
            settings.home,
            port=ui_port(os.environ.get("HEADRACE_PORT")),
            environment=dict(os.environ),
            before_start=lambda: fail_runs_of_dead_workers(instance),
        ) as running,
    ):
        print(f"Dagster UI: {running.url}   logs: {running.logs}   stop: Ctrl-C", flush=True)
        while True:
            running.check_alive()
            time.sleep(1)


if __name__ == "__main__":
    main()
