"""The command that shows a scan or a prediction in the browser.

A command imports what it needs once its options are read: torch takes seconds, no help should.
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import tyro

from bifusion.commands import parsing
from bifusion.commands.help import Help
from bifusion.errors import InputError


@dataclass
class View:
    """Show a scene folder, or a prediction, as a page to look around in."""

    path: tyro.conf.Positional[Path]
    """Scene folder, or a folder that `bifusion predict` or `bifusion scan` wrote."""
    scene: Path | None = None
    """Scene folder that the prediction was made of: its colours, annotation and cameras."""
    html: Path | None = None
    """Write the page to this file, which needs nothing else, instead of serving it."""
    port: int = 8765
    """Where it is served, on this machine alone; 0: any that is free."""
    open: bool = False
    """Open it in the browser."""


def view(args: list[str]) -> int:
    """Show a scene or a prediction in the browser, or write that page (--html)."""
    wanted = parsing.parse(View, args, "view", Help("view predictions --html room.html"))

    from bifusion.inference.scan_files import scan_page
    from bifusion.storage.files import write_text
    from bifusion.viewer.page import is_own_page, render_view
    from bifusion.viewer.prediction import open_scan

    if wanted.html is not None and wanted.html.is_dir():
        raise InputError(f"--html {wanted.html}: is a folder; name a file in it")
    page = scan_page(wanted.path)
    if page is not None and wanted.scene is not None:
        raise InputError("--scene does not go with what `bifusion scan` wrote, which holds its scene")
    if page is None:
        page = render_view(open_scan(wanted.path, wanted.scene))
    elif not is_own_page(page):  # another's page, or one whose script a browser will not run
        raise InputError(
            f"{wanted.path}: its view.html is not of this version of bifusion; open that file in the "
            "browser if you trust it, or scan again"
        )
    if wanted.html is not None:
        write_text(wanted.html, page)
        print(wanted.html)
        _open(wanted.html.resolve().as_uri(), wanted.open)
        return 0
    return _serve(page, wanted)


def _serve(page: str, wanted: View) -> int:
    """Until Ctrl-C, which is how it ends well."""
    from bifusion.viewer.serve import HOST, page_server

    with suppress(KeyboardInterrupt), page_server(page, wanted.port) as server:
        address = f"http://{HOST}:{server.server_port}/"
        print(f"{address}    (Ctrl-C ends it)", flush=True)
        _open(address, wanted.open)
        server.serve_forever()
    return 0


def _open(address: str, wanted: bool) -> None:
    if wanted:
        import webbrowser

        webbrowser.open(address)
