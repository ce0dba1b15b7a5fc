"""The version of this package, and of the picows that its compiled core was built for."""

from picows.version import __version__ as _picows_version

__version__ = "0.1.0"

PICOWS_VERSION = "2.3.1"
"""picows' C structures differ between versions; with another one the core would read the wrong memory."""

if _picows_version != PICOWS_VERSION:
    raise ImportError(
        f"fastbcast {__version__} is built for picows {PICOWS_VERSION}, but {_picows_version} is installed; "
        f"try: pip install picows=={PICOWS_VERSION}"
    )
