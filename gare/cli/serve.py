"""``gare serve``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gare.cli.command import gare_command
from gare.common.console import note, say

if TYPE_CHECKING:
    from gare.retrieval.index import SearchIndex

TOKEN = "GARE_SERVE_TOKEN"  # noqa: S105 - the name of a variable


@gare_command("serve", short_help="Serve a page and a JSON API to search an index.")
@click.argument("index_folder", metavar="INDEX", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=8090, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 for any free one."
)
@click.option(
    "--allow-host", multiple=True, metavar="NAME", help="Another name by which browsers call this server; repeatable."
)
@click.option(
    "--threads", type=click.IntRange(min=1), help="Searches at once; 2 to 4 by default, depending on the machine."
)
@click.option("--queue", default=64, show_default=True, type=click.IntRange(min=0), help="Most searches that wait.")
@click.option("--checkpoint", help="Where the index's model is now, if you moved it.")
def serve(index_folder: Path, allow_host: tuple[str, ...], **options: Any) -> dict[str, Any]:
    """Serve INDEX to browsers and programs until Ctrl-C.

    The page searches by sentences, shows and plays the videos, and starts them at the seconds that fit best. The API
    is described at /openapi.json. Only this machine can ask, unless you give --host, such as 0.0.0.0: then every
    request needs a token, which is part of the printed address; set GARE_SERVE_TOKEN to choose it. There is no
    encryption: in a network that you do not trust, put a proxy with TLS in front, or use ssh -L 8090:localhost:8090.

    Changes of the index, such as gare index --append, are taken up without a stop.

    \b
    Examples:
      gare serve index
      gare serve index --host 0.0.0.0 --port 8000
      curl "http://127.0.0.1:8090/api/search?q=a+red+circle&top=3"
    """
    note(f"Opening {index_folder} ...")
    from gare.api.serve import serve as run

    served: dict[str, Any] = {}

    def started(address: str, index: SearchIndex) -> None:
        served.update(index=str(index_folder), videos=len(index), address=address.partition("?")[0])
        say(f"{len(index):,} videos at {address}")
        note("Ctrl-C stops the server.")

    run(index_folder, allow_hosts=allow_host, token=os.environ.get(TOKEN) or None, on_start=started, **options)
    note("Stopped.")
    return served
