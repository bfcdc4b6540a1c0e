"""The `textanchor` command: the list of verbs, and what becomes of errors."""

import logging
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from textanchor import __version__
from textanchor.cli import adapt, compare, demo, diff, doctor, evaluate, fetch, measure, parts, repair, report
from textanchor.errors import TextanchorError, shown
from textanchor.files import HALF_CHARACTER

EXIT_MISTAKE = 2
"""A mistake that the user can mend."""
EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""
UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # pyright: ignore[reportAssignmentType]
"""What the parser raises; the class of click, or of the copy that newer versions of typer bring."""

VERBS: dict[str, Callable[..., None]] = {
    "demo": demo.run,
    "parts": parts.run,
    "adapt": adapt.run,
    "evaluate": evaluate.run,
    "compare": compare.run,
    "diff": diff.run,
    "repair": repair.run,
    "measure": measure.run,
    "report": report.run,
    "fetch": fetch.run,
    "doctor": doctor.run,
}


class _Verbs(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except TextanchorError as error:
            if ctx.params["debug"]:
                raise
            _say_error(str(error))
            raise typer.Exit(EXIT_MISTAKE) from error
        except UsageError as error:
            usage: Any = error
            message = usage.format_message().removesuffix(".")
            _say_error(f"{message}; `{usage.ctx.command_path} --help` lists the options")
            raise typer.Exit(EXIT_MISTAKE) from error
        except KeyboardInterrupt as error:
            if ctx.params["debug"]:
                raise
            _say("interrupted")
            raise typer.Exit(EXIT_INTERRUPTED) from error


def _say_error(text: str) -> None:
    from rich.markup import escape

    _say(f"[bold red]error:[/] {escape(' '.join(text.split()))}")  # one paragraph


def _say(text: str) -> None:
    Console(stderr=True, highlight=False).print(text, soft_wrap=True)  # unwrapped: paths stay whole in pipes and logs


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Fine-tune a vision-language model on your task and keep what it already had.",
)
for _name, _run in VERBS.items():
    app.command(_name)(_run)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"textanchor {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options of all verbs; `_Verbs.invoke` reads debug."""


def main() -> None:
    """Entry point of the console script."""
    logging.basicConfig(format="%(message)s")  # to standard error
    logging.getLogger("textanchor").setLevel(logging.INFO)
    if no_text := next(filter(HALF_CHARACTER.search, sys.argv[1:]), None):
        _say_error(f"{shown(no_text)} holds bytes that are no UTF-8, and no record could name it; rename the file")
        sys.exit(EXIT_MISTAKE)
    app()
