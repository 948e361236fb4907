"""All that is sent to a cluster, judged by upstream's own types and validation."""
