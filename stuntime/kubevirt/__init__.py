"""The testbed on a cluster: OpenShift Virtualization, or Kubernetes with KubeVirt and Multus."""
