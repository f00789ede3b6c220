"""Builds both images and runs them: `python -m tests.deploy`, some minutes. Needs root and the tools in `images.py`."""

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from tests.deploy.images import TOOLS, Images, send
from tests.support.mongod import Mongod

MB = 1_000_000


def main() -> int:
    """Returns the exit status: 0 if both images work."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        click.echo(f"needs Debian's packages {', '.join(missing)}", err=True)
        return 2
    with TemporaryDirectory() as name:
        directory = Path(name)
        images = Images(directory)
        images.make_base()
        click.echo(f"sluice: {images.build('sluice') // MB} MB")
        run_without_database(images, directory)
        click.echo(f"sluice-embedded: {images.build('sluice-embedded') // MB} MB")
        run_with_database(images)
    click.echo("both images work")
    return 0


def run_without_database(images: Images, directory: Path) -> None:
    """The image without a database, whose URL is in a file."""
    with Mongod(directory / "mongod") as mongod:
        url = directory / "url"
        url.write_text(mongod.url)
        options = [f"--volume={url}:/run/secrets/url:ro", "--env=SLUICE_MONGODB_URL_FILE=/run/secrets/url"]
        with images.running("sluice", *options) as output:
            send(output)


def run_with_database(images: Images) -> None:
    """The image with a database. A second container goes on with its volume."""
    volume = "--volume=sluice:/var/lib/sluice"
    with images.running("sluice-embedded", volume) as output:
        send(output)
    with images.running("sluice-embedded", volume) as again:
        assert "slc_" not in again, "another first key"


if __name__ == "__main__":
    sys.exit(main())
