"""What travels between nodes: records, signatures, feeds, the store, libp2p, sync and blobs.

This room knows nothing of training or of verdicts, and never imports them.
"""
