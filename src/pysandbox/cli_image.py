"""`pysandbox image`: import, list, rm, prune."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator

from . import images
from .images import Image


def image_command(options: argparse.Namespace) -> int:
    """Carry out the command; returns the exit status."""
    if options.action == "import":
        with _progress(f"unpacking {options.source}") as progress:
            image = images.load(options.source, progress, name=options.name)
        print(image.digest)
    elif options.action == "list":
        found = images.list_images()
        if options.json:
            print(json.dumps([_as_dict(image) for image in found], indent=2))
        for image in () if options.json else found:
            names = ", ".join(image.names) or "-"
            day = time.strftime("%Y-%m-%d", time.localtime(image.imported))
            print(f"{image.digest.removeprefix('sha256:')[:12]}  {image.size / (1 << 20):8.1f} MiB  {day}  {names}")
    elif options.action == "rm":
        for image in [images.named(name) for name in options.names]:
            images.remove(image)
    else:
        for image in images.prune():
            print(f"removed {image.digest}")
    return 0


def _as_dict(image: Image) -> dict[str, object]:
    return {
        "digest": image.digest,
        "names": list(image.names),
        "size": image.size,
        "imported": image.imported,
        "path": image.path,
    }


@contextlib.contextmanager
def _progress(what: str) -> Iterator[images.Progress | None]:
    """A bar on a terminal, where rich is installed."""
    try:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        yield None
        return
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
