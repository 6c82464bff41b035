"""`ms2hs view`: a cube in a browser."""

import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from ms2hs.cli.messages import note
from ms2hs.cli.options import INPUT, OUTPUT, Overwrite, Quiet, example_epilog, refuse

EPILOG = example_epilog(
    "ms2hs view cube.tif -o cube.html",
    "ms2hs view cube.tif --compare other.tif --compare field.csv",
    "ms2hs view tile.tif --serve",
)


def view_command(  # noqa: PLR0917 - one parameter an option, as Typer wants it
    context: typer.Context,
    cube: Annotated[str, typer.Argument(metavar="CUBE", help="Cube with wavelengths: COG, ENVI, Zarr or NetCDF.")],
    output: Annotated[
        Path | None, OUTPUT("-o", "--output", help="Output HTML file.", show_default="CUBE with .html")
    ] = None,
    compare: Annotated[
        list[str] | None,
        INPUT(metavar="FILE", help="Second cube, or reference spectra (.csv, .sli, .npz). Repeatable."),
    ] = None,
    scene: Annotated[
        str | None,
        INPUT(metavar="SCENE", help="Scene that the cube was converted from; its values are shown as dots."),
    ] = None,
    serve: Annotated[
        bool,
        OUTPUT("--serve", help="Serve the page on 127.0.0.1 instead; reads pixels on request.", show_default=False),
    ] = False,
    port: Annotated[int, OUTPUT(min=0, max=65535, help="Port of --serve; 0 takes a free one.")] = 0,
    open_browser: Annotated[bool, OUTPUT("--open", help="Open the page in the browser.", show_default=False)] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Show a cube in a browser: picture, and the spectra of pixels with their 90 % interval."""
    from ms2hs.viewing.page import view
    from ms2hs.viewing.server import CubeServer

    say = (lambda _text: None) if quiet else note
    if not serve:
        refuse(context, ["port"], "the page is a file")
        path = view(cube, output, compare or (), scene=scene, overwrite=overwrite, note=say)
        typer.echo(path)
        if open_browser:
            webbrowser.open(path.resolve().as_uri())
        return
    refuse(context, ["output", "overwrite"], "--serve writes no file")
    with CubeServer(cube, compare or (), scene=scene, port=port, note=say) as server:
        typer.echo(server.url)
        if open_browser:
            webbrowser.open(server.url)
        say("Serving until Ctrl-C.")
        with suppress(KeyboardInterrupt):  # the way to end it
            server.run()
