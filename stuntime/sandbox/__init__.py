"""The testbed on one machine: nodes are network namespaces, VMs are QEMU processes."""
