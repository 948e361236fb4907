"""A real distribution as a guest: Debian with cloud-init, as a containerDisk that KubeVirt boots."""
