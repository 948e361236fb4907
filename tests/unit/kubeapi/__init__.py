"""A fake Kubernetes API server that speaks the wire format over real HTTP, with KubeVirt, NMState and OVN behind it.

`server.FakeServer` is the API; `kubevirt.FakeKubeVirt`, `networks.FakeNMState` and `networks.FakeOVN` make its objects
live. Nothing in here knows what is tested with it.
"""
