"""Act: what is sent to the world where it is not what is trained on."""

from anypo.generate.act.base import Act, Own, Taken

__all__ = ["Act", "Own", "Taken"]
