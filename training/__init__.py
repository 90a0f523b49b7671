"""One experiment on this machine: challenge, corpus, sandbox, metered run, sealed evaluation."""
