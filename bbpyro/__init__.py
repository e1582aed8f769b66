"""Beta-Bernoulli dropout with Pyro: learn which units of a network are needed, and keep only those."""

import lazy_loader

from bbpyro.version import __version__ as __version__

# The names are in __init__.pyi; torch, Pyro and ArviZ take seconds to import, and whoever asks for help waits for none.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
