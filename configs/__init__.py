"""Commented TOML: charters to start a swarm from. See ``node.governing``."""
