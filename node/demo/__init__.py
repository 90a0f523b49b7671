"""A whole swarm on this machine: real nodes, one process each, and two dishonest claims."""
