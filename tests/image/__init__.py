"""The image, built from stand-ins for its base and for `oc`, as no registry is asked by a test."""
