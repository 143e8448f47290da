"""Arguments that several commands of `headrace handoff` share."""

from typing import Annotated

import typer

Asset = Annotated[
    str | None, typer.Argument(metavar="ASSET", help="Asset, or asset[partition]@v7.", show_default=False)
]
Partition = Annotated[
    str | None,
    typer.Argument(metavar="PARTITION", help="Partition key; not needed if there is one.", show_default=False),
]
Version = Annotated[
    str | None, typer.Argument(metavar="VERSION", help="Version, such as v7; the newest without.", show_default=False)
]
