"""Why a run failed, in one sentence: of its first failed step, else of the run."""

from dagster import DagsterEventType, DagsterInstance


def failure_of(instance: DagsterInstance, run_id: str) -> str:
    for kind in (DagsterEventType.STEP_FAILURE, DagsterEventType.RUN_FAILURE):
        for entry in instance.all_logs(run_id, of_type=kind):
            event = entry.dagster_event
            data = getattr(event, "event_specific_data", None)
            failure = getattr(data, "user_failure_data", None)
            if failure and failure.description:
                return failure.description
            error = getattr(data, "error", None)
            if error:
                cause = error.cause or error
                return cause.message.strip()
            if event and event.message:
                return event.message
    return "no reason recorded"
