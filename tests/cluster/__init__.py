"""A real Kubernetes with real KubeVirt on one machine. README.md says what it is and how it is used."""
