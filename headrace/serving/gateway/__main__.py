"""`python -m headrace.serving.gateway --service FILE --store URL`: serves one service live. See docs/gateway.md."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from headrace.engines.host.address import CPU_ONLY, ENGINE_HOST
from headrace.errors import HeadraceError
from headrace.serving.gateway.assembly import Settings
from headrace.serving.gateway.process import run_gateway
from headrace.text.terminal import say


def main(
    service: Annotated[Path, typer.Option(envvar="HEADRACE_SERVICE", help="The service's YAML file.")],
    store: Annotated[str, typer.Option(envvar="HEADRACE_STORE", help="A directory, or s3://bucket/prefix.")],
    host: Annotated[str, typer.Option(envvar="HEADRACE_GATEWAY_HOST", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, envvar="HEADRACE_GATEWAY_PORT", help="0 takes a free one.")
    ] = 8080,
    uds: Annotated[
        Path | None, typer.Option(envvar="HEADRACE_GATEWAY_UDS", help="Unix socket to listen on instead.")
    ] = None,
    reuse_port: Annotated[
        bool, typer.Option(envvar="HEADRACE_GATEWAY_REUSE_PORT", help="Share the port with other gateways.")
    ] = False,
    api_keys: Annotated[
        Path | None, typer.Option(envvar="HEADRACE_API_KEYS", help="name:sha256 lines; without it everybody may ask.")
    ] = None,
    log: Annotated[
        Path | None, typer.Option(envvar="HEADRACE_GATEWAY_LOG", help="File of JSON lines; default: stdout.")
    ] = None,
    log_content: Annotated[
        bool, typer.Option(envvar="HEADRACE_GATEWAY_LOG_CONTENT", help="Prompts and answers into the log.")
    ] = False,
    node: Annotated[
        str | None, typer.Option(envvar="HEADRACE_NODE", help="Name in preparation records; default: HOST-PORT.")
    ] = None,
    engine_key: Annotated[
        str | None, typer.Option(envvar="HEADRACE_ENGINE_KEY", help="Key for the servers behind the engines.")
    ] = None,
    engine_host: Annotated[
        str,
        typer.Option(envvar=ENGINE_HOST, help="Who holds models that are loaded here: off, on, cpu, or a socket."),
    ] = CPU_ONLY,
    notice_seconds: Annotated[
        float, typer.Option(envvar="HEADRACE_GATEWAY_NOTICE_SECONDS", help="Units are taken so long after SIGTERM.")
    ] = 1.0,
    inbox: Annotated[
        Path | None,
        typer.Option(envvar="HEADRACE_INBOX", help="Directory of campaigns: take events for those with prompts.inbox."),
    ] = None,
    inbox_log: Annotated[
        Path | None,
        typer.Option(envvar="HEADRACE_INBOX_LOG", help="The inbox's own directory, on a local disk that stays."),
    ] = None,
    timezone: Annotated[
        str, typer.Option(envvar="HEADRACE_TIMEZONE", help="Of the days of the inbox's windows.")
    ] = "UTC",
    batches: Annotated[
        bool, typer.Option("--batches", envvar="HEADRACE_BATCHES", help="OpenAI's Files and Batch API.")
    ] = False,
    batch_days: Annotated[
        float, typer.Option(min=0.05, max=365.0, envvar="HEADRACE_BATCH_DAYS", help="How long their files are kept.")
    ] = 30.0,
    batch_lines: Annotated[
        int,
        typer.Option(
            min=0, envvar="HEADRACE_BATCH_LINES", help="Lines of batches at once; 0: a quarter of the service's places."
        ),
    ] = 0,
    initialize: Annotated[
        bool, typer.Option("--initialize", help="Without a journal: make the file's own set stable. For servers alone.")
    ] = False,
) -> None:
    """Serve one service's version sets behind OpenAI's API."""
    settings = Settings(
        service=service,
        store=store,
        host=host,
        port=port,
        uds=uds,
        reuse_port=reuse_port,
        api_keys=api_keys,
        log=log,
        log_content=log_content,
        node=node,
        engine_key=engine_key,
        engine_host=engine_host,
        notice_seconds=notice_seconds,
        initialize=initialize,
        inbox=inbox,
        inbox_log=inbox_log,
        timezone=timezone,
        batches=batches,
        batch_days=batch_days,
        batch_lines=batch_lines,
    )
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run_gateway(settings))
    except HeadraceError as error:
        say(str(error), error=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    typer.run(main)
