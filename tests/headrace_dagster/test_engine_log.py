"""What engines warn of while a run asks them stands in that run's own log."""

import logging
import threading

import dagster as dg

from headrace_dagster.engine_log import engines_tell

WAITS = "writer 3 (transformers) is not in the memory of the engine host yet"


def test_a_warning_of_an_engine_is_a_line_of_the_run_that_asks_it_and_of_no_later_one() -> None:
    engine = logging.getLogger("headrace.engines.host.connection")

    @dg.op
    def ask(context: dg.OpExecutionContext) -> None:
        with engines_tell(context.log):
            # Engines are asked on an event loop's thread.
            asked = threading.Thread(target=engine.warning, args=("%s", WAITS))
            asked.start()
            asked.join()
        engine.warning("of another run")

    @dg.job
    def night() -> None:
        ask()

    with dg.DagsterInstance.ephemeral() as instance:
        result = night.execute_in_process(instance=instance)
        entries = instance.all_logs(result.run_id)
    told = [(one.user_message, one.level) for one in entries if not one.is_dagster_event]
    assert told == [(WAITS, logging.WARNING)]
