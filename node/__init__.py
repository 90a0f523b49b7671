"""One member of a swarm: command line, service, research loop, verification work, limits."""
