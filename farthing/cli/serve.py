"""``farthing serve``: the gateway, until it is told to stop."""

import click
import msgspec

from farthing.cli.context import App, pass_app


@click.command()
@click.option("--host", help="Overrides server.host.")
@click.option("--port", type=click.IntRange(1, 65_535), help="Overrides server.port.")
@pass_app
def serve(app: App, host: str | None, port: int | None) -> None:
    """Run the gateway."""
    server = app.settings.server
    server = msgspec.structs.replace(server, host=host or server.host, port=port or server.port)
    app.stores.serve(msgspec.structs.replace(app.settings, server=server))
