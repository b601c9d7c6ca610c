"""Images as root file systems: read from archives that nobody trusts, unpacked once, kept in the user's cache."""

from .cache import Image, kept, list_images, named, prune, remove, sweep
from .formats import Config
from .loading import Progress, load
from .unpack import Bounds
from .users import ids_of

__all__ = [
    "Bounds",
    "Config",
    "Image",
    "Progress",
    "ids_of",
    "kept",
    "list_images",
    "load",
    "named",
    "prune",
    "remove",
    "sweep",
]
