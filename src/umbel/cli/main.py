"""``umbel``: the table of commands, imported when first asked for, and how errors read.

Every error is one line on stderr that begins with the command, and an exit code: 2 = what was asked
makes no sense, 1 = it failed. ``--traceback`` or UMBEL_TRACEBACK=1 adds where it came from.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import MappingProxyType

import click

from umbel.cli.given import shared_options
from umbel.exceptions import UmbelError
from umbel.spelling import suggestion
from umbel.version import VERSION

#: Command -> its line in the help. It is ``command`` in the module of its name.
COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "worker": "Run the tasks of an application.",
        "call": "Send a task by its name; print its id.",
        "result": "Show what became of a task.",
        "workflow": "Show a workflow as a tree, with states.",
        "status": "Show which workers live.",
        "top": "Show workers, what they run, and queues, live.",
        "why": "Say why a task does not run.",
        "revoke": "Call tasks off, by their ids.",
        "queues": "Show what waits in queues, and who consumes them.",
        "bindings": "Show which exchange leads to which queues.",
        "dead": "List, show, requeue or drop dead letters.",
        "shell": "Open an interpreter with the application and its tasks.",
        "purge": "Delete the messages that wait in queues.",
        "report": "Show versions, and settings with their sources.",
        "beat": "Send periodic tasks when they are due.",
        "schedule": "List and change periodic tasks, explain their runs.",
        "dev": "Run worker and scheduler, anew after each change of the code.",
        "demo": "Analyse Python's standard library with tasks.",
    }
)
FAILURE = 1
USAGE = 2
INTERRUPTED = 130


class _Commands(click.Group):
    """Commands that are imported when they are used, not to be listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 -- click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 -- click's signature
        if cmd_name not in COMMANDS:
            return None
        found: click.Command = import_module(f"umbel.cli.{cmd_name}").command
        found.short_help = COMMANDS[cmd_name]  # for the completion of shells
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            hint = suggestion(args[0], COMMANDS)
            raise click.UsageError(f"there is no command {args[0]!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 -- click's signature
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    "umbel",
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@shared_options
@click.version_option(VERSION, message="umbel %(version)s")
@click.pass_context
def umbel_command(ctx: click.Context) -> None:
    """Send tasks, run them, and see what becomes of them.

    The options may stand before or after the command: `umbel -A tasks worker` is
    `umbel worker -A tasks`. `umbel COMMAND --help` tells more.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command; return its exit code, having reported what went wrong."""
    try:
        code = umbel_command.main(list(arguments), prog_name="umbel", standalone_mode=False)
        return int(code or 0)
    except click.Abort:
        click.echo("umbel: stopped", err=True)
        return INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return USAGE
    except click.UsageError as error:
        return _report(arguments, error, _usage(error), USAGE)
    except click.ClickException as error:
        return _report(arguments, error, error.format_message(), error.exit_code)
    except UmbelError as error:
        return _report(arguments, error, str(error), FAILURE)
    except Exception as error:  # noqa: BLE001 -- the last place that can make one line of it
        return _report(arguments, error, f"{type(error).__name__}: {error}", FAILURE)


def _usage(error: click.UsageError) -> str:
    text = error.format_message().rstrip(".")
    path = error.ctx.command_path if error.ctx else "umbel"
    return f"{text[:1].lower()}{text[1:]} (see {path} --help)"


def _report(arguments: Sequence[str], error: BaseException, text: str, code: int) -> int:
    if "--traceback" in arguments or os.environ.get("UMBEL_TRACEBACK"):
        traceback.print_exception(error)
    click.echo(f"umbel: {' '.join(text.split())}", err=True)
    return code


if __name__ == "__main__":
    main()
