"""Token files as an authorize hook: `hub.authorize(Tokens(subscribe_path, publish_path))`."""

from .identity.tokens import Tokens

__all__ = ["Tokens"]
