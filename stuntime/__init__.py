"""How long a virtual machine is unreachable while it is live-migrated."""

__version__ = "0.1.0"
