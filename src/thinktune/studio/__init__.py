"""The studio: the whole way in a browser, over a folder; every act is a verb of the command line in its own process."""

from thinktune.studio.server import make_studio_app, run_studio

__all__ = ["make_studio_app", "run_studio"]
