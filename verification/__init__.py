"""From a claim to a verdict that every node computes alike: screen, reproduce, decide, audit.

The core of this package is pure: integers and bytes in, decisions out. It reads no clock, opens
no file, draws no random number (but for simulate) and imports neither trio nor torch nor libp2p.
"""
