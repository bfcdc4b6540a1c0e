"""`textanchor doctor`: what this machine has and lacks."""

import typer


def run() -> None:
    """Tell Python, libraries, device, which precision is fast, memory, disk, model files and registry; a line each."""
    from textanchor.demo.machine import examine

    problems = 0
    for finding in examine():
        typer.echo(str(finding))
        problems += bool(finding.way_out)
    if problems:
        raise typer.Exit(2)
