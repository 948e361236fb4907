"""The testbed on any platform: two guests reached by ssh, and a migration by a command or by hand."""
